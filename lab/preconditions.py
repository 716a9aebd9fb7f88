"""What a machine needs to run the lab, checked before anything is started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.errors import (
    MemoryShort,
    NotRoot,
    PreconditionError,
    ProgramsMissing,
    SharedMemory,
)

KERNEL = "linux.uml"
MEMORY = Path("/dev/shm")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Each program with the Debian package that has it.
PROGRAMS = {
    KERNEL: "user-mode-linux",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "bridge": "iproute2",
    "lvm": "lvm2",
    "iscsid": "open-iscsi",
    "targetcli": "targetcli-fb",
    # targetcli asks the system bus, and fails without one.
    "dbus-daemon": "dbus-daemon",
    "modprobe": "kmod",
    "uml_mconsole": "uml-utilities",
    "thin_check": "thin-provisioning-tools",
    "udevadm": "udev",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "taskset": "util-linux",
}


def check(memory_mib: int) -> None:
    """Raises a PreconditionError for the first thing that is missing."""
    if os.geteuid() != 0:
        raise NotRoot("the lab makes a network namespace and needs root", "run it with sudo")
    _check_programs()
    if not Path("/dev/net/tun").exists():
        raise PreconditionError("/dev/net/tun is missing", "run: modprobe tun")
    _check_shared_memory(memory_mib)
    available = available_mib()
    if available < memory_mib:
        raise MemoryShort(
            f"{available} MiB of memory are available, the nodes need {memory_mib}",
            "end other programs or boot fewer nodes",
        )


def _check_programs() -> None:
    packages = {package for name, package in PROGRAMS.items() if not shutil.which(name, path=PATH)}
    # The nodes' own Python and udev daemon stand at fixed places.
    if not Path("/usr/bin/python3").exists():
        packages.add("python3")
    if not Path("/lib/systemd/systemd-udevd").exists():
        packages.add("udev")
    if packages:
        names = " ".join(sorted(packages))
        raise ProgramsMissing(f"not installed: {names}", f"run: apt-get install {names}")


def _check_shared_memory(memory_mib: int) -> None:
    room = os.statvfs(MEMORY)
    if room.f_flag & os.ST_NOEXEC:
        raise SharedMemory(f"{MEMORY} is mounted noexec", f"run: mount -o remount,exec {MEMORY}")
    free = room.f_bavail * room.f_frsize >> 20
    if free < memory_mib:
        size = (room.f_blocks * room.f_frsize >> 20) + memory_mib - free
        raise SharedMemory(
            f"{MEMORY} has {free} MiB free, the nodes need {memory_mib}",
            f"run: mount -o remount,size={size}M {MEMORY}",
        )


def available_mib() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0
