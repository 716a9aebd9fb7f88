"""The one place that runs programs: argument lists, C locale, timeouts in steps."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from targetd import flight

log = logging.getLogger(__name__)

# A program that is late is first waited for, then asked to end, and killed only
# when it ignores that: SIGKILL in the middle of an LVM command leaves metadata
# half-written (topolvm issue 1163).
TERMINATE_SECONDS = 15.0
KILL_SECONDS = 5.0
# Of a command line, in the flight record.
SHOWN_LENGTH_MAX = 500


# Held while a program is being started. Until it runs, it has all open files of
# the daemon, also those that are to be closed then: a device that is closed under
# this lock is really closed, and does not seem to be in use for another moment.
starting = threading.Lock()


class ProcessFailed(Exception):
    """A program ended with a status other than 0, or did not end in time."""

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        super().__init__(f"{argv[0]} {argv[1] if len(argv) > 1 else ''}: status {status}: {stderr}")
        self.status = status
        self.stderr = stderr


@dataclass(frozen=True)
class Completed:
    stdout: str
    stderr: str
    seconds: float


def run(argv: Sequence[str], timeout_seconds: float = 120.0) -> Completed:
    """Run a program to its end; it is in the flight record.

    Raises ProcessFailed, also when the program had to be ended.
    """
    begun = flight.commands.begin(*_shown(argv))
    failure = "was not started"
    try:
        completed = _run(argv, timeout_seconds)
        failure = ""
        return completed
    except ProcessFailed as error:
        failure = f"status {error.status}: {''.join(error.stderr.splitlines()[:1])}"
        raise
    finally:
        flight.commands.end(begun, failure)


def _shown(argv: Sequence[str]) -> tuple[str, str]:
    """What is done, and to what; secrets are in no command line of ours."""
    words = 2 if argv[0] == "lvm" else 1
    return " ".join(argv[:words]), " ".join(argv[words:])[:SHOWN_LENGTH_MAX]


def _run(argv: Sequence[str], timeout_seconds: float) -> Completed:
    started = time.monotonic()
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    for name in ("LVM_SYSTEM_DIR", "HOME"):
        if name in os.environ:
            environment[name] = os.environ[name]
    with starting:
        # Not as a context: its end would wait without limit for a child in D state.
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
            # A Ctrl-C on the daemon's terminal must not reach an LVM command.
            start_new_session=True,
        )
    stdout, stderr = _wait(child, timeout_seconds)
    seconds = time.monotonic() - started
    log.debug("%s: status %d in %.3f s", " ".join(argv), child.returncode, seconds)
    if child.returncode:
        raise ProcessFailed(argv, child.returncode, stderr.strip())
    return Completed(stdout, stderr, seconds)


def _wait(child: subprocess.Popen[str], timeout_seconds: float) -> tuple[str, str]:
    steps = ((timeout_seconds, child.terminate), (TERMINATE_SECONDS, child.kill))
    for seconds, end in steps:
        try:
            return child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            log.warning("pid %d is late after %.0f s; ending it", child.pid, seconds)
            end()
    try:
        return child.communicate(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired as error:
        # In D state: it cannot be killed, and waiting longer would hang us too.
        raise ProcessFailed(["kill", str(child.pid)], -9, "the program hangs in the kernel") from (
            error
        )
