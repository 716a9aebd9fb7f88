"""What reaches the journal, byte by byte, and what a person reads."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from logging_journald import JournaldTransport

from targetd import logs
from targetd.context import about, current
from targetd.workers import Deadline, VolumeWorkers

VOLUME = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


class Journal:
    """The journal's end of its socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)
        self.seals = 0

    def take(self) -> dict[str, bytes]:
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        for descriptor in descriptors:
            self.seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            with open(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
        return _read(data)

    def close(self) -> None:
        self._socket.close()


def _read(data: bytes) -> dict[str, bytes]:
    """As systemd's documents say: NAME=value, or NAME, a length, and any bytes."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, sign, value = line.partition(b"=")
        if not sign:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[name.decode()] = value
        data = rest
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "socket")
    yield journal
    journal.close()


@pytest.fixture
def log(journal: Journal, tmp_path: Path) -> Iterator[logging.Logger]:
    logger = logging.Logger("targetd.test", logging.DEBUG)
    transport = JournaldTransport(tmp_path / "socket", connected=False)
    handler = logs.JournalHandler(transport)
    handler.addFilter(logs.add_subject)
    logger.addHandler(handler)
    yield logger
    transport.socket.close()


def test_fields_priority_and_place(journal: Journal, log: logging.Logger) -> None:
    log.warning(
        "look %s", "here", extra={"volume_id": VOLUME, "identity": "cinder", "duration_ms": 3}
    )
    seen = journal.take()
    assert seen["MESSAGE"] == b"look here"
    assert seen["PRIORITY"] == b"4"
    assert seen["SYSLOG_IDENTIFIER"] == b"targetd"
    assert seen["LOGGER"] == b"targetd.test"
    assert seen["CODE_FILE"] == __file__.encode()
    assert seen["CODE_FUNC"] == b"test_fields_priority_and_place"
    assert (seen["VOLUME_ID"], seen["CLIENT"], seen["DURATION_MS"]) == (
        VOLUME.encode(),
        b"cinder",
        b"3",
    )


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", b"7"), ("info", b"6"), ("warning", b"4"), ("error", b"3"), ("critical", b"2")],
)
def test_priorities(journal: Journal, log: logging.Logger, level: str, priority: bytes) -> None:
    getattr(log, level)("x")
    assert journal.take()["PRIORITY"] == priority


def test_a_text_cannot_forge_fields(journal: Journal, log: logging.Logger) -> None:
    text = "one\nPRIORITY=0\nVOLUME_ID=another\n"
    log.info("%s", text, extra={"identity": text})
    seen = journal.take()
    assert seen["MESSAGE"] == text.encode() and seen["CLIENT"] == text.encode()
    assert seen["PRIORITY"] == b"6" and "VOLUME_ID" not in seen


def test_an_exception_is_in_the_message(journal: Journal, log: logging.Logger) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        log.exception("it failed")
    message = journal.take()["MESSAGE"].decode()
    assert message.startswith("it failed\nTraceback") and message.endswith("KeyError: 'gone'")


def test_what_is_longer_than_a_datagram_comes_as_a_sealed_file(
    journal: Journal, log: logging.Logger
) -> None:
    text = "long line\n" * 100_000
    log.info(text)
    assert journal.take()["MESSAGE"] == text.encode()
    sealed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    assert journal.seals == sealed


def test_what_the_work_is_about_is_on_every_record(journal: Journal, log: logging.Logger) -> None:
    with about(volume_id=VOLUME, method="CreateVolume", attachment_id=""):
        with about(snapshot_id="inner"):
            log.info("x")
        log.info("y", extra={"method": "its own"})
    log.info("z")
    first, second, third = journal.take(), journal.take(), journal.take()
    assert (first["VOLUME_ID"], first["SNAPSHOT_ID"]) == (VOLUME.encode(), b"inner")
    assert first["METHOD"] == b"CreateVolume" and "ATTACHMENT_ID" not in first
    assert second["METHOD"] == b"its own" and "SNAPSHOT_ID" not in second
    assert "VOLUME_ID" not in third


@pytest.mark.parametrize("kept_by_caller", [True, False])
def test_work_in_another_thread_is_about_the_same(kept_by_caller: bool) -> None:
    with about(volume_id=VOLUME) as subject:
        seen = VolumeWorkers().run(VOLUME, Deadline(10, kept_by_caller), current)
    assert seen == subject and seen.fields == {"volume_id": VOLUME}


def test_without_a_journal_it_goes_to_stderr(
    journal: Journal, log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "socket").unlink()
    # The handler's stream was made before the capture.
    instead = logs.lines(sys.stderr)
    (handler,) = log.handlers
    assert isinstance(handler, logs.JournalHandler)
    handler.instead = instead
    log.error("still said")
    log.error("no UTF-8: \udcff")
    said = capsys.readouterr().err
    assert "ERROR targetd.test: still said" in said and r"no UTF-8: \udcff" in said


def test_a_line_names_what_its_message_does_not() -> None:
    record = logging.LogRecord(
        "targetd.x", logging.INFO, "", 1, f"volume {VOLUME} is there", None, None
    )
    record.__dict__.update(volume_id=VOLUME, method="GetVolume")
    line = logs.LineFormatter(logs.LINE).format(record)
    assert line.endswith(f" INFO targetd.x: volume {VOLUME} is there [METHOD=GetVolume]")


def test_the_journal_is_used_only_where_stderr_is_its(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    before = root.level
    with open(tmp_path / "stderr", "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        there = os.fstat(stderr.fileno())
        for stream, kind in (
            (f"{there.st_dev}:{there.st_ino}", logs.JournalHandler),
            (f"{there.st_dev}:{there.st_ino + 1}", logging.StreamHandler),
            ("", logging.StreamHandler),
        ):
            monkeypatch.setenv("JOURNAL_STREAM", stream)
            logs.setup("warning")
            (handler,) = root.handlers
            assert type(handler) is kind, stream
            assert root.level == logging.WARNING
            handler.close()
    root.setLevel(before)
