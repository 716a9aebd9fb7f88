"""Clients that attach and detach: a program that knows nothing of what it calls.

``python -m lab.bench.attachd.clients --clients N --port PORT < VOLUMES`` calls a site over
REST; with ``--endpoint ADDRESS --tls FOLDER`` instead of the port it calls a storage host
through its driver, as an attachment layer does. The ids of volumes come as a JSON list; what
was measured goes out as a JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from targetd_driver import DriverError, Endpoint, TargetdDriver, TlsFiles

from lab.bench.attachd.api import Api, ApiError, connector

Answer = TypeVar("Answer")


@dataclass
class Calls:
    """Of all clients, of one kind."""

    # Of each that was good.
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    # From the first to the last.
    all_seconds: float = 0.0


@dataclass
class Outcome:
    create: Calls = field(default_factory=Calls)
    delete: Calls = field(default_factory=Calls)

    @classmethod
    def of(cls, document: str) -> Outcome:
        found = json.loads(document)
        return cls(Calls(**found["create"]), Calls(**found["delete"]))


class Subject(Protocol):
    """What a client calls. Raises ApiError or DriverError."""

    def connect(self) -> None:
        """What the first call would do beside its work."""

    def create_attachment(self, volume_id: str) -> str:
        """Returns its id."""

    def delete_attachment(self, attachment_id: str) -> None: ...

    def close(self) -> None: ...


class Host:
    """A storage host through its driver; an attachment's id is that of its volume."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._driver = TargetdDriver(endpoint)

    def connect(self) -> None:
        self._driver.host.get()

    def create_attachment(self, volume_id: str) -> str:
        volume = {"id": volume_id}
        self._driver.create_export(None, volume)
        self._driver.initialize_connection(volume, connector(volume_id), volume_id)
        return volume_id

    def delete_attachment(self, attachment_id: str) -> None:
        volume = {"id": attachment_id}
        self._driver.terminate_connection(volume, None, attachment_id)
        self._driver.remove_export(None, volume)

    def close(self) -> None:
        self._driver.close()


class Client(threading.Thread):
    """Attaches its volumes one after the other; then, with all others, detaches them again."""

    def __init__(
        self,
        subject: Subject,
        volume_ids: Sequence[str],
        barrier: threading.Barrier,
        outcome: Outcome,
    ) -> None:
        super().__init__(daemon=True)
        self._subject, self._volume_ids = subject, volume_ids
        self._barrier, self._outcome = barrier, outcome

    def run(self) -> None:
        self._subject.connect()
        self._barrier.wait()
        made = self._timed(self._subject.create_attachment, self._volume_ids, self._outcome.create)
        self._barrier.wait()
        self._barrier.wait()
        self._timed(self._subject.delete_attachment, made, self._outcome.delete)
        self._barrier.wait()

    def _timed(self, do: Callable[[str], Answer], ids: Iterable[str], calls: Calls) -> list[Answer]:
        answers = []
        for id_ in ids:
            started = time.perf_counter()
            try:
                answers.append(do(id_))
            except (ApiError, DriverError) as error:
                calls.errors.append(str(error))
            else:
                calls.seconds.append(time.perf_counter() - started)
        return answers


def measure(subjects: Sequence[Subject], volume_ids: Sequence[str]) -> Outcome:
    """One client for each subject; they share the volumes."""
    outcome, count = Outcome(), len(subjects)
    barrier = threading.Barrier(count + 1)
    for number, subject in enumerate(subjects):
        Client(subject, volume_ids[number::count], barrier, outcome).start()
    for calls in (outcome.create, outcome.delete):
        barrier.wait()
        started = time.perf_counter()
        barrier.wait()
        calls.all_seconds = time.perf_counter() - started
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--endpoint")
    parser.add_argument("--tls", type=Path)
    given = parser.parse_args()
    subjects: list[Subject] = []
    for _ in range(given.clients):
        if given.endpoint:
            names = ("client.pem", "client.key", "ca.pem")
            files = TlsFiles(*(given.tls / name for name in names))
            subjects.append(Host(Endpoint(given.endpoint, files)))
        else:
            subjects.append(Api(given.port))
    print(json.dumps(asdict(measure(subjects, json.load(sys.stdin)))))
    for subject in subjects:
        subject.close()


if __name__ == "__main__":
    main()
