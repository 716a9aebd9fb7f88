"""Block devices read and written directly: wiped, filled, flushed, tried for users."""

from __future__ import annotations

import array
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from targetd.engines import process
from targetd.engines.interface import EngineError, StillInUse
from targetd.model import WipePolicy

# From linux/fs.h: _IO(0x12, 127) and _IO(0x12, 119). Both take two uint64:
# start and length in bytes.
BLKZEROOUT = 0x127F
BLKDISCARD = 0x1277
SECTOR_BYTES = 512
COPY_CHUNK_BYTES = 4 << 20
# Zeros are left out of a copy to a thin volume in pieces of this size.
COPY_PIECE_BYTES = 128 << 10
ZEROS = bytes(COPY_CHUNK_BYTES)


def refuse_in_use(path: str) -> None:
    """Raises StillInUse where LIO, a mount or another program holds the device."""
    try:
        with _opened(path, os.O_RDONLY | os.O_EXCL):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise EngineError(f"{path}: {error}") from error
        raise StillInUse(path) from error


def flush(path: str) -> None:
    """Put on the disk what has been written to the device. Raises EngineError."""
    try:
        with _opened(path, os.O_RDONLY) as device:
            os.fsync(device)
    except OSError as error:
        raise EngineError(f"{path} cannot be flushed: {error}") from error


def size_bytes(path: str) -> int:
    """The size of a device as the kernel has it now. Raises OSError."""
    number = os.stat(path).st_rdev
    with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/size", "rb") as file:
        return int(file.read()) * SECTOR_BYTES


def wipe(path: str, size: int, policy: WipePolicy, start: int, step: int) -> Iterator[int]:
    """Overwrite or discard; yields, step by step, how far it is on the disk.

    Raises OSError.
    """
    request = BLKDISCARD if policy is WipePolicy.DISCARD else BLKZEROOUT
    with _opened(path, os.O_WRONLY | os.O_EXCL) as device:
        while start < size:
            piece = array.array("Q", [start, min(step, size - start)])
            try:
                fcntl.ioctl(device, request, piece)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or request == BLKZEROOUT:
                    raise
                # The disk cannot discard.
                request = BLKZEROOUT
                continue
            os.fsync(device)
            start += piece[1]
            yield start


def copy(
    origin: str, destination: str, size: int, sparse: bool, start: int, step: int
) -> Iterator[int]:
    """Copy ``size`` bytes; yields, step by step, how far it is on the disk.

    ``sparse`` leaves zeros out, for a destination that reads as zeros where
    nothing was written. Raises OSError.
    """
    with (
        _opened(origin, os.O_RDONLY) as source,
        _opened(destination, os.O_WRONLY | os.O_EXCL) as target,
    ):
        while start < size:
            end = min(start + step, size)
            for place in range(start, end, COPY_CHUNK_BYTES):
                chunk = _read(source, place, min(COPY_CHUNK_BYTES, end - place))
                _write(target, chunk, place, sparse)
            os.fsync(target)
            # What has been copied is not needed in memory any more.
            for device in (source, target):
                os.posix_fadvise(device, start, end - start, os.POSIX_FADV_DONTNEED)
            start = end
            yield start


def _read(device: int, place: int, length: int) -> memoryview:
    chunk = memoryview(bytearray(length))
    done = 0
    while done < length:
        count = os.preadv(device, [chunk[done:]], place + done)
        if count == 0:
            raise OSError(errno.EIO, f"the device ends at {place + done}")
        done += count
    return chunk


def _write(device: int, chunk: memoryview, place: int, sparse: bool) -> None:
    piece_bytes = COPY_PIECE_BYTES if sparse else len(chunk)
    for start in range(0, len(chunk), piece_bytes):
        piece = chunk[start : start + piece_bytes]
        if sparse and piece == ZEROS[: len(piece)]:
            continue
        done = 0
        while done < len(piece):
            done += os.pwrite(device, piece[done:], place + start + done)


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        with process.starting, suppress(OSError):
            os.close(descriptor)
