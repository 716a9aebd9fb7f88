"""What a machine needs to run the lab, checked before anything is started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.errors import LabError

KERNEL = "linux.uml"
MEMORY = Path("/dev/shm")
PROGRAMS = {
    KERNEL: "user-mode-linux",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "lvm": "lvm2",
    "iscsid": "open-iscsi",
    "targetcli": "targetcli-fb",
    "dbus-daemon": "dbus-daemon",
    "modprobe": "kmod",
    "uml_mconsole": "uml-utilities",
    "thin_check": "thin-provisioning-tools",
    "mkfs.ext4": "e2fsprogs",
    "udevadm": "udev",
    "setpriv": "util-linux",
}


def check(memory_mib: int) -> None:
    """Raises LabError, in one line with the cure, for the first thing that is missing."""
    if os.geteuid() != 0:
        raise LabError("the lab makes a network namespace and needs root; run it with sudo")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted(
        {package for name, package in PROGRAMS.items() if not shutil.which(name, path=path)}
    )
    if missing:
        raise LabError(f"programs are missing; run: apt-get install {' '.join(missing)}")
    if not Path("/lib/systemd/systemd-udevd").exists():
        raise LabError("systemd-udevd is missing; run: apt-get install udev")
    if not Path("/dev/net/tun").exists():
        raise LabError("/dev/net/tun is missing; run: modprobe tun")
    _check_memory(memory_mib)


def _check_memory(memory_mib: int) -> None:
    room = os.statvfs(MEMORY)
    if room.f_flag & os.ST_NOEXEC:
        raise LabError(f"{MEMORY} is mounted noexec; run: mount -o remount,exec {MEMORY}")
    free = room.f_bavail * room.f_frsize >> 20
    if free < memory_mib:
        raise LabError(
            f"{MEMORY} has {free} MiB free, the nodes need {memory_mib}; run: "
            f"mount -o remount,size={memory_mib * 2}M {MEMORY}"
        )
    available = _available_mib()
    if available < memory_mib:
        raise LabError(
            f"{available} MiB of memory are available, the nodes need {memory_mib}; end other "
            "programs or boot fewer nodes"
        )


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    return 0
