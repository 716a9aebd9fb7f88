"""Volumes by the thousand: device-mapper devices that LVM knows nothing of.

Creating 3,000 logical volumes takes a quarter of an hour, these take seconds.
LIO opens them as it opens a logical volume, which is such a device too.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from targetd.engines.interface import Inventory
from targetd.engines.lvm import Lvm
from targetd.model import PoolConfig, PoolReport, Volume, volume_name

POOL = PoolConfig("bench", "bench")
SECTORS = 8192
VOLUME_BYTES = SECTORS * 512
DISK = "/dev/ubda"
# The first numbers are those of the volume group, wherever something activates it.
FIRST_MINOR = 1000
# One argument of a program holds 128 KiB at most.
DEVICES_AT_ONCE = 500


def volume_id(number: int) -> str:
    """The same in every program and after every reboot."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))


def device(number: int) -> str:
    return f"/dev/{POOL.volume_group}/{volume_name(volume_id(number))}"


def make_devices(count: int) -> None:
    """After every boot. udev would take minutes over so many, so it is sent away."""
    subprocess.run(["udevadm", "control", "--exit"], check=False)
    for start in range(0, count, DEVICES_AT_ONCE):
        numbers = range(start, min(start + DEVICES_AT_ONCE, count))
        table = ";".join(
            f"bench{n},,{FIRST_MINOR + n},rw,0 {SECTORS} linear {DISK} {n * SECTORS}"
            for n in numbers
        )
        create = ["dmsetup", "create", "--noudevsync", "--noudevrules", "--concise", table]
        if subprocess.run(create, check=False).returncode:
            raise SystemExit("the devices could not be made; dmsetup says why above")
    os.mkdir(f"/dev/{POOL.volume_group}")
    for number in range(count):
        os.symlink(f"/dev/dm-{FIRST_MINOR + number}", device(number))


class DmVolumes(Lvm):
    """The LVM engine with those devices for volumes: always active, never made or removed."""

    def __init__(self, count: int) -> None:
        super().__init__([])
        self._count = count

    def start(self) -> None:
        pass

    def pools(self) -> list[PoolReport]:
        size = self._count * VOLUME_BYTES
        return [PoolReport(POOL, size, size, size, VOLUME_BYTES, size, size)]

    def inventory(self) -> Inventory:
        now = datetime.now(UTC)
        return Inventory(
            [
                Volume(volume_id(number), POOL, VOLUME_BYTES, False, now)
                for number in range(self._count)
            ]
        )


def initiator(number: int) -> str:
    return f"iqn.2026-01.org.example.bench:host{number}"


def main(arguments: Sequence[str]) -> None:
    make_devices(int(arguments[0]))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
