"""Proves again and again that the daemon works, and only then tells systemd so.

What is proved is what every volume needs: that a call over the daemon's own
socket is answered, that work on a volume is begun, that the records can be
read, that the threads which look after things are there. Not that a certain
volume moves: one device that hangs in the kernel must not end the daemon.

A proof that does not come to its end is named in the log and in the unit's
status before systemd ends the daemon.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from targetd import notify
from targetd.errors import TargetdError
from targetd.state import State
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)

# Proofs in the time that systemd waits, so that one late proof is no end yet.
ROUNDS = 4
CALL_SECONDS = 10.0
# No volume's id.
PROBE = "watchdog"

Proof = Callable[[], object]


class NotProved(Exception):
    """What was to be shown is not so."""


class Watchdog:
    def __init__(self, proofs: Mapping[str, Proof], status: Callable[[], str]) -> None:
        """``proofs`` by what they show; each returns, raises, or hangs.

        ``status`` is what the unit shows while all is well.
        """
        self._proofs = dict(proofs)
        self._status = status
        self._stopping = threading.Event()
        self._rounds = 0
        self._busy_with = ""
        self._problem = ""

    def start(self, seconds: float) -> None:
        """``seconds`` is how long systemd waits; nothing is done where it does not."""
        if seconds:
            pause = seconds / ROUNDS
            for target in (self._prove_on, self._feed_on):
                threading.Thread(target=target, args=(pause,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def _prove_on(self, pause: float) -> None:
        while not self._stopping.is_set():
            if self._prove():
                self._rounds += 1
            self._stopping.wait(pause)

    def _prove(self) -> bool:
        for name, proof in self._proofs.items():
            self._busy_with = name
            try:
                proof()
            except (NotProved, TargetdError, sqlite3.Error) as error:
                self._problem = f"{name}: {error}"
                return False
        self._busy_with = self._problem = ""
        return True

    def _feed_on(self, pause: float) -> None:
        fed, told = 0, ""
        while not self._stopping.wait(pause):
            if self._rounds > fed:
                fed = self._rounds
                notify.notify("WATCHDOG=1")
                if told:
                    told = ""
                    log.warning("the watchdog is fed again")
                    notify.status(self._status())
                continue
            problem = self._problem or f"{self._busy_with}: there is no answer"
            if problem != told:
                told = problem
                log.error("the watchdog is not fed: %s", problem)
                notify.status(f"not well: {problem}")


def proofs(
    channel: grpc.Channel,
    workers: VolumeWorkers,
    state: State,
    threads: Callable[[], Mapping[str, bool]],
) -> dict[str, Proof]:
    """``threads`` says of each thread that must be there whether it is."""

    def missing_threads() -> None:
        missing = [name for name, alive in threads().items() if not alive]
        if missing:
            raise NotProved(f"ended: {', '.join(missing)}")

    return {
        "calls": lambda: _call(channel),
        "volume workers": lambda: workers.run(PROBE, Deadline(CALL_SECONDS), time.monotonic),
        "records": state.lock_domain_id,
        "threads": missing_threads,
    }


def _call(channel: grpc.Channel) -> None:
    """Whatever the answer says: a daemon that tells of a sick host is a well one."""
    # The published types of the health stub lack its methods.
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        raise NotProved(f"{error.code().name} was the answer") from error
