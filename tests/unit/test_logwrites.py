"""Logs of dm-log-writes, made by hand: read, and replayed in part."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lab import logwrites
from lab.logwrites import ENTRY, MAGIC, SUPER, Flag, Log, LogError

SECTOR = 512
A, B, C = (bytes([letter]) * SECTOR for letter in b"abc")


def _entry(
    flags: Flag, sector: int = 0, data: bytes = b"", sectors: int = 0, mark: str = ""
) -> bytes:
    header = ENTRY.pack(sector, sectors or len(data) // SECTOR, flags, len(mark)) + mark.encode()
    return header.ljust(SECTOR, b"\0") + data


# Written, flushed, marked; then two writes, of which a flush took its time.
ENTRIES = (
    _entry(Flag(0), 0, A),
    _entry(Flag.FLUSH),
    _entry(Flag.MARK, mark="one"),
    _entry(Flag.FUA, 1, B),
    _entry(Flag.DISCARD, 0, sectors=1),
    _entry(Flag.METADATA, 2, C + C),
    _entry(Flag.FLUSH),
    _entry(Flag.MARK, mark="two"),
)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    path = tmp_path / "log"
    start = SUPER.pack(MAGIC, 1, len(ENTRIES), SECTOR).ljust(SECTOR, b"\0")
    path.write_bytes(start + b"".join(ENTRIES))
    return logwrites.read(path)


def _image(log: Log, end: int, more: list[logwrites.Entry] | None = None) -> bytes:
    image = log.path.with_name("image")
    image.write_bytes(b"left from before" * 100)
    logwrites.replay(log, end, image, 4 * SECTOR, more or [])
    return image.read_bytes()


def test_entries_are_read(log: Log) -> None:
    assert [entry.mark for entry in log.entries if entry.is_mark] == ["one", "two"]
    assert [entry.start for entry in log.entries if entry.offset] == [0, SECTOR, 2 * SECTOR]
    assert log.group(6) == range(4, 6)
    assert log.quiet(7, 8)
    assert not log.quiet(3, 4)


def test_a_part_is_replayed(log: Log) -> None:
    nothing = bytes(SECTOR)
    assert _image(log, 0) == nothing * 4
    assert _image(log, 3) == A + nothing * 3
    assert _image(log, 4) == A + B + nothing * 2
    assert _image(log, 4, log.entries[5].pieces()) == A + B + C + C
    assert _image(log, len(ENTRIES)) == nothing + B + C + C


def test_some_of_a_cache_are_kept_in_their_order(log: Log) -> None:
    group = [log.entries[number] for number in log.group(6)]
    kept = {tuple(e.start for e in logwrites.some(group, random.Random(n))) for n in range(99)}
    assert kept == {(), (0,), (1024,), (0, 1024)}
    ordered = {
        tuple(e.start for e in logwrites.some(group, random.Random(n), 4 * SECTOR))
        for n in range(99)
    }
    assert ordered == {(), (0,), (0, 1024)}


@pytest.mark.parametrize("size", [SECTOR, 3 * SECTOR + 9])
def test_half_a_log_is_refused(log: Log, size: int) -> None:
    with log.path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(LogError):
        logwrites.read(log.path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(SECTOR))
    with pytest.raises(LogError):
        logwrites.read(tmp_path / "log")
