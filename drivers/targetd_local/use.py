"""Who has a disk in use on this host: mounts, swap, devices on top of it, open files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from targetd_local.kernel import MULTIPATH, Kernel

# In a line of mountinfo: the number of the device, the mount point, and after the dash
# the kind of file system and its source.
MOUNT = re.compile(r"^\S+ \S+ (?P<number>\S+) \S+ (?P<point>\S+) .*? - \S+ (?P<source>\S+)")
OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    number: str
    point: str
    source: str


def users(kernel: Kernel, device: str) -> list[str]:
    """Why the device cannot go, one reason each; ``device`` is a name such as sda or dm-0."""
    found: list[str] = []
    for name in _all_of(kernel, device):
        found += _mounted(kernel, name)
        found += _swap(kernel, name)
        found += _on_top(kernel, name)
        found += _open(kernel, name)
    return found


def _all_of(kernel: Kernel, device: str) -> list[str]:
    """It and its partitions, which on a multipath device are devices on top of it."""
    parts = [name for name in kernel.holders(device) if _is_partition(kernel, name)]
    return [device, *kernel.partitions(device), *parts]


def _is_partition(kernel: Kernel, name: str) -> bool:
    """As kpartx makes it: part1-mpath-36001405..."""
    uuid = kernel.dm_uuid(name)
    return uuid.startswith("part") and f"-{MULTIPATH}" in uuid


def _mounted(kernel: Kernel, name: str) -> Iterator[str]:
    number = kernel.number(name)
    for pid, mounts in _mount_tables(kernel.root):
        where = f" in the mount namespace of process {pid}" if pid else ""
        for mount in mounts:
            # btrfs numbers its mounts itself, but names its device.
            if mount.number == number or _same_device(mount.source, name):
                yield f"/dev/{name} is mounted at {mount.point}{where}"


def _same_device(source: str, name: str) -> bool:
    return source.startswith("/dev/") and os.path.basename(os.path.realpath(source)) == name


def _mount_tables(root: Path) -> Iterator[tuple[str, list[Mount]]]:
    """Of each mount namespace, with a process that is in it, and none for our own."""
    seen = set()
    for pid in ("self", *_processes(root)):
        # Processes end; those of the kernel have no table.
        with suppress(OSError):
            namespace = os.readlink(root / f"proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            lines = (root / f"proc/{pid}/mountinfo").read_text(errors="replace").splitlines()
            yield "" if pid == "self" else pid, _mounts(lines)


def _mounts(lines: list[str]) -> list[Mount]:
    found = filter(None, (MOUNT.match(line) for line in lines))
    return [Mount(one["number"], _plain(one["point"]), _plain(one["source"])) for one in found]


def _plain(text: str) -> str:
    """Spaces and the like are \\040 in the kernel's tables."""
    return OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _swap(kernel: Kernel, name: str) -> Iterator[str]:
    with suppress(OSError):
        lines = (kernel.root / "proc/swaps").read_text().splitlines()[1:]
        if any(_same_device(_plain(line.split()[0]), name) for line in lines):
            yield f"/dev/{name} is swap"


def _on_top(kernel: Kernel, name: str) -> Iterator[str]:
    for holder in kernel.holders(name):
        if _is_partition(kernel, holder):
            continue
        called = kernel.dm_name(holder)
        yield f"/dev/{name} is held by {f'/dev/mapper/{called}' if called else f'/dev/{holder}'}"


def _open(kernel: Kernel, name: str) -> Iterator[str]:
    number = kernel.number(name)
    for pid in _processes(kernel.root):
        with suppress(OSError):
            if any(
                _is_open_on(path, number) for path in os.scandir(kernel.root / f"proc/{pid}/fd")
            ):
                command = (kernel.root / f"proc/{pid}/comm").read_text().strip()
                yield f"/dev/{name} is open in process {pid} ({command})"


def _is_open_on(descriptor: os.DirEntry[str], number: str) -> bool:
    try:
        found = os.stat(descriptor.path)
    except OSError:
        return False
    if not stat.S_ISBLK(found.st_mode):
        return False
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" == number


def _processes(root: Path) -> list[str]:
    return [path.name for path in (root / "proc").iterdir() if path.name.isdecimal()]
