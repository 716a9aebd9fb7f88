"""Files, folders and links of the kernel's configfs, with as few calls as each takes.

Paths are plain texts: on the way of every attach, building path objects would
cost more than the kernel's own work. Every change is in the flight record, by
its path; what is written is not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from targetd import flight

# All that an attribute can hold.
PAGE_BYTES = 4096


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _recorded(what: str, change: Callable[..., None], timed: bool = False) -> Callable[..., None]:
    record = flight.configfs
    begin, end = record.begin_untimed, record.end_untimed
    if timed:
        begin, end = record.begin, record.end

    def recorded(path: str, *value: str) -> None:
        begun, failure = begin(what, path), -1
        try:
            change(path, *value)
            failure = 0
        except OSError as error:
            failure = error.errno or -1
            raise
        finally:
            end(begun, failure)

    return recorded


# Path and value: without a line end, which the kernel would take as part of a secret.
write: Callable[[str, str], None] = _recorded("write", _write)
mkdir: Callable[[str], None] = _recorded("mkdir", os.mkdir)
rmdir: Callable[[str], None] = _recorded("rmdir", os.rmdir)
# Of an ACL with sessions: the kernel waits for their end.
rmdir_waiting: Callable[[str], None] = _recorded("rmdir", os.rmdir, timed=True)
unlink: Callable[[str], None] = _recorded("unlink", os.unlink)
# The link, and what it leads to.
link: Callable[[str, str], None] = _recorded("link", lambda path, to: os.symlink(to, path))


def read_exactly(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, PAGE_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)


def read(path: str) -> str:
    return read_exactly(path).strip("\0\n ")


def ensure_value(path: str, value: str) -> bool:
    """Returns whether it was another."""
    if read(path) == value:
        return False
    write(path, value)
    return True


def make_folder(path: str) -> bool:
    """Returns whether it was not there."""
    try:
        mkdir(path)
    except FileExistsError:
        return False
    return True


def remove_folder(path: str, waits: bool = False) -> bool:
    """Returns whether it was there; ``waits`` says that it may take long."""
    try:
        (rmdir_waiting if waits else rmdir)(path)
    except FileNotFoundError:
        return False
    return True


def folders(path: str, prefix: str = "") -> list[str]:
    """The names of the folders in a folder; none where it is absent."""
    try:
        with os.scandir(path) as entries:
            return [
                entry.name
                for entry in entries
                if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise


def links(path: str) -> list[str]:
    """The names of the links in a folder; none where it is absent."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_symlink()]
    except FileNotFoundError:
        return []


def ensure_link(folder: str, name: str, to: str) -> bool:
    """Make one link the only one of a folder; returns whether it was not so."""
    found = links(folder)
    right = [one for one in found if os.path.realpath(f"{folder}/{one}") == os.path.realpath(to)]
    for one in set(found) - set(right[:1]):
        unlink(f"{folder}/{one}")
    if right:
        return len(found) > 1
    link(f"{folder}/{name}", to)
    return True


def remove_links(folder: str) -> None:
    for name in links(folder):
        with suppress(FileNotFoundError):
            unlink(f"{folder}/{name}")
