"""Devices, here as files, read and written directly."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from targetd.engines import blocks, process

STEP = 8 << 20
SIZE = 2 * STEP + 12345


def test_a_copy_is_equal_and_tells_how_far_it_is(tmp_path: Path) -> None:
    origin, destination = tmp_path / "origin", tmp_path / "destination"
    content = os.urandom(SIZE - STEP) + bytes(STEP)
    origin.write_bytes(content)
    destination.write_bytes(b"x" * SIZE)
    told = list(blocks.copy(str(origin), str(destination), SIZE, False, 0, STEP))
    assert told == [STEP, 2 * STEP, SIZE]
    assert destination.read_bytes() == content


def test_a_sparse_copy_leaves_zeros_out(tmp_path: Path) -> None:
    origin, destination = tmp_path / "origin", tmp_path / "destination"
    pieces = [bytes(blocks.COPY_PIECE_BYTES), os.urandom(blocks.COPY_PIECE_BYTES)] * 40
    origin.write_bytes(b"".join(pieces))
    size = origin.stat().st_size
    destination.touch()
    os.truncate(destination, size)
    list(blocks.copy(str(origin), str(destination), size, True, 0, STEP))
    assert destination.read_bytes() == origin.read_bytes()
    assert destination.stat().st_blocks * 512 <= size // 2 + (64 << 10)


def test_a_copy_goes_on_from_where_it_is_told(tmp_path: Path) -> None:
    origin, destination = tmp_path / "origin", tmp_path / "destination"
    origin.write_bytes(b"o" * SIZE)
    destination.write_bytes(b"d" * SIZE)
    assert list(blocks.copy(str(origin), str(destination), SIZE, False, STEP, STEP))[-1] == SIZE
    assert destination.read_bytes() == b"d" * STEP + b"o" * (SIZE - STEP)


def test_a_device_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    origin, destination = tmp_path / "origin", tmp_path / "destination"
    origin.write_bytes(b"o" * STEP)
    destination.write_bytes(b"d" * SIZE)
    with pytest.raises(OSError, match="ends at"):
        list(blocks.copy(str(origin), str(destination), SIZE, False, 0, STEP))


def test_no_device_is_closed_while_a_program_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program on its way to run has copies of all open files: closing one then would
    leave a volume in use for a moment that nobody can explain."""
    path = tmp_path / "device"
    path.touch()
    begun, may_run = threading.Event(), threading.Event()
    popen = subprocess.Popen

    def slow(argv: Sequence[str], **options: Any) -> Any:
        begun.set()
        may_run.wait(10)
        return popen(argv, **options)

    monkeypatch.setattr(subprocess, "Popen", slow)
    runner = threading.Thread(target=process.run, args=(["true"],))
    runner.start()
    assert begun.wait(10)
    closer = threading.Thread(target=blocks.refuse_in_use, args=(str(path),))
    closer.start()
    closer.join(0.3)
    assert closer.is_alive(), "it waits for the program to run"
    may_run.set()
    closer.join(10)
    runner.join(10)
    assert not closer.is_alive()
