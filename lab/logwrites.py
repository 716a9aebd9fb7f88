"""Read the log of the kernel's dm-log-writes, and replay a part of it into a disk image.

The kernel logs a write when a later flush of its disk has completed, or when the
write itself went past the cache (FUA). A mark is logged at once. So what stands
before a mark is just what a disk with a volatile cache is bound to have kept
then, and all else may be lost (drivers/md/dm-log-writes.c in Linux 6.1).
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

MAGIC, VERSION = 0x6A736677736872, 1
# magic, version, entries, bytes of a sector; then from the next sector on, for each
# entry a sector that begins with these: sector, sectors, flags, bytes of a mark.
SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
# A disk may keep a part of a larger write.
PIECE_BYTES = 4096


class Flag(IntFlag):
    FLUSH = 1 << 0
    FUA = 1 << 1
    DISCARD = 1 << 2
    MARK = 1 << 3
    METADATA = 1 << 4


class LogError(Exception):
    """The file is not a whole log."""


@dataclass(frozen=True)
class Entry:
    flags: Flag
    # Bytes on the disk.
    start: int
    length: int
    # Where its data is in the log; 0 for a discard, which has none.
    offset: int = 0
    mark: str = ""

    @property
    def is_mark(self) -> bool:
        return Flag.MARK in self.flags

    @property
    def is_flush(self) -> bool:
        return Flag.FLUSH in self.flags

    @property
    def is_cached(self) -> bool:
        """A write or a discard that only a later flush made durable."""
        return not self.flags & (Flag.FLUSH | Flag.FUA | Flag.MARK)

    def pieces(self) -> list[Entry]:
        if not self.offset:
            return [self]
        return [
            Entry(
                self.flags,
                self.start + at,
                min(PIECE_BYTES, self.length - at),
                self.offset + at,
            )
            for at in range(0, self.length, PIECE_BYTES)
        ]


@dataclass(frozen=True)
class Log:
    path: Path
    entries: Sequence[Entry]

    def group(self, flush: int) -> range:
        """The entries that the flush at this place made durable."""
        first = flush
        while first and self.entries[first - 1].is_cached:
            first -= 1
        return range(first, flush)

    def quiet(self, first: int, end: int) -> bool:
        """Whether the disk had no write and no flush there."""
        return all(entry.is_mark for entry in self.entries[first:end])


def read(path: Path) -> Log:
    """Raises LogError. The log of a running node is whole up to its last mark."""
    entries: list[Entry] = []
    with path.open("rb") as file:
        magic, version, count, sector = SUPER.unpack(file.read(SUPER.size))
        if (magic, version) != (MAGIC, VERSION):
            raise LogError(f"{path}: no log of version {VERSION}")
        at = sector
        for number in range(count):
            file.seek(at)
            header = file.read(sector)
            if len(header) < sector:
                raise LogError(f"{path}: ends at entry {number} of {count}")
            start, sectors, flags, mark_bytes = ENTRY.unpack_from(header)
            flag = Flag(flags)
            at += sector
            has_data = sectors > 0 and Flag.DISCARD not in flag
            mark = header[ENTRY.size : ENTRY.size + mark_bytes] if Flag.MARK in flag else b""
            entries.append(
                Entry(flag, start * sector, sectors * sector, at * has_data, mark.decode())
            )
            at += sectors * sector * has_data
    return Log(path, entries)


def replay(log: Log, end: int, image: Path, size_bytes: int, more: Iterable[Entry] = ()) -> None:
    """Make the image an empty disk with the entries before ``end``, and ``more``."""
    with log.path.open("rb") as source, image.open("r+b") as disk:
        disk.truncate(0)
        disk.truncate(size_bytes)
        for entry in (*log.entries[:end], *more):
            if entry.is_mark or not entry.length:
                continue
            if entry.offset:
                data = os.pread(source.fileno(), entry.length, entry.offset)
                os.pwrite(disk.fileno(), data, entry.start)
            else:
                _zero(disk.fileno(), entry)


def _zero(disk: int, entry: Entry) -> None:
    """What the lab's disks make of a discard; what is a hole in the file stays one."""
    at, end = entry.start, entry.start + entry.length
    with suppress(OSError):
        # ENXIO: no more data behind the offset.
        while (at := os.lseek(disk, at, os.SEEK_DATA)) < end:
            stop = min(os.lseek(disk, at, os.SEEK_HOLE), end)
            os.pwrite(disk, bytes(stop - at), at)
            at = stop


def some(entries: Iterable[Entry], rng: random.Random, ordered_bytes: int = 0) -> list[Entry]:
    """Of writes that were still in a cache: which the disk happened to have kept.

    Any of them, but for those in the first ``ordered_bytes`` of the disk: of them
    those that came first.
    """
    pieces = [piece for entry in entries for piece in entry.pieces()]
    ordered = [piece for piece in pieces if piece.start < ordered_bytes]
    kept = set(map(id, ordered[: rng.randint(0, len(ordered))]))
    kept |= {id(one) for one in pieces if one.start >= ordered_bytes and rng.random() < 0.5}
    return [piece for piece in pieces if id(piece) in kept]
