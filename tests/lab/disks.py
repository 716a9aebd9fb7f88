"""Data on the disks of a node, written in it and looked for from outside."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lab.node import Node
from tests.hosts import MEBIBYTE


def fill(node: Node, device: str, line: bytes, size_bytes: int) -> None:
    """Write the line again and again, onto the disk itself."""
    path = node.share / "fill"
    path.write_bytes((line * (size_bytes // len(line) + 1))[:size_bytes])
    count = str(-(-size_bytes // MEBIBYTE))
    node.run(["dd", "if=/media/fill", f"of={device}", "bs=1M", f"count={count}", "conv=fsync"])
    path.unlink()


def same(node: Node, device: str, line: bytes, size_bytes: int) -> bool:
    """Whether the device begins with what ``fill`` wrote."""
    path = node.share / "same"
    path.write_bytes((line * (size_bytes // len(line) + 1))[:size_bytes])
    done = node.run(["cmp", "-n", str(size_bytes), "/media/same", device], check=False)
    path.unlink()
    return done.status == 0


def first_bytes(node: Node, device: str, count: int) -> bytes:
    return node.run(["head", "-c", str(count), device]).stdout.encode()


def count(path: Path, words: bytes) -> int:
    """How often the words occur in the data of a sparse file, its holes left out."""
    found, end = 0, 0
    with path.open("rb") as file, suppress(OSError):
        # ENXIO: no more data behind the offset.
        while True:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found += os.pread(file.fileno(), end - start, start).count(words)
    return found
