"""Data on the disks of a node, written in it and looked for from outside."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lab.machine import Machine

# Both have the line as their input, and the device and the size as arguments.
FILL = """\
import os, sys
line, size = sys.stdin.buffer.read(), int(sys.argv[2])
text = line * max(1, (1 << 20) // len(line))
with open(sys.argv[1], "r+b", buffering=0) as disk:
    while size:
        size -= disk.write(text[:size])
    os.fsync(disk.fileno())
"""
DIFFERENT = 3
SAME = f"""\
import sys
line, size = sys.stdin.buffer.read(), int(sys.argv[2])
text = line * max(1, (1 << 20) // len(line))
with open(sys.argv[1], "rb") as disk:
    while size:
        wanted = text[:size]
        if disk.read(len(wanted)) != wanted:
            sys.exit({DIFFERENT})
        size -= len(wanted)
"""


def fill(node: Machine, device: str, line: bytes, size_bytes: int) -> None:
    """Write the line again and again, onto the disk itself."""
    node.run(["/usr/bin/python3", "-c", FILL, device, str(size_bytes)], stdin=line)


def same(node: Machine, device: str, line: bytes, size_bytes: int) -> bool:
    """Whether the device begins with what ``fill`` wrote."""
    argv = ["/usr/bin/python3", "-c", SAME, device, str(size_bytes)]
    done = node.run(argv, stdin=line, check=False)
    assert done.status in (0, DIFFERENT), done.stderr
    return done.status == 0


def first_bytes(node: Machine, device: str, count: int) -> bytes:
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
