"""No secret anywhere, as far as a simulated host can show it; tests/lab has the real one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import generate_latest

from targetd import flight, logs
from targetd.secretbox import PASSWORD_LENGTH
from tests.every_call import EveryCall
from tests.hosts import Host, SimulatedBacking


class PerExport(SimulatedBacking):
    options = {"chap_per_export": True}  # noqa: RUF012 - as in its base


class KeepingHandler(logging.Handler):
    """All that a record holds, as it would stand in the journal."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{self.format(record)} {record.__dict__}")


@pytest.fixture
def said() -> Iterator[list[str]]:
    handler = KeepingHandler()
    handler.addFilter(logs.add_subject)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler.texts
    root.setLevel(before)
    root.removeHandler(handler)


@pytest.mark.parametrize("kind", [SimulatedBacking, PerExport])
def test_no_secret_anywhere(kind: type[SimulatedBacking], said: list[str]) -> None:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        backing = kind(Path(folder))
        host = Host(backing)
        calls = EveryCall(host)
        try:
            calls.run()
            metrics = generate_latest(backing.daemon.metrics).decode()
        finally:
            host.close()
            backing.close()
        files = [
            path.read_bytes().decode(errors="replace")
            for path in Path(folder).rglob("*")
            if path.is_file()
        ]
    secrets = calls.heard.secrets
    # The plain secret, and for mutual CHAP two more, or for the export and its two hosts.
    assert len(secrets) >= 2 and all(len(secret) == PASSWORD_LENGTH for secret in secrets)
    assert files and said and metrics
    places = [*calls.heard.texts, *files, *said, metrics, str(flight.entries())]
    for secret in secrets:
        assert not [place for place in places if secret in place]
