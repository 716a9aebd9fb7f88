"""Who uses a disk, read from the kernel's tables; the lab has the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from targetd_local.kernel import Kernel
from targetd_local.use import users


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    for device, number in (("sda", "8:0"), ("sda/sda1", "8:1"), ("dm-0", "254:0")):
        _write(tmp_path / f"sys/class/block/{device}/dev", number)
    _write(tmp_path / "sys/class/block/sda/sda1/partition", "1")
    (tmp_path / "sys/class/block/sda1").symlink_to("sda/sda1")
    _process(tmp_path, "self", "mnt:[1]", "")
    return Kernel(tmp_path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _process(root: Path, pid: str, namespace: str, mountinfo: str) -> None:
    _write(root / f"proc/{pid}/mountinfo", mountinfo)
    (root / f"proc/{pid}/ns").mkdir()
    (root / f"proc/{pid}/ns/mnt").symlink_to(namespace)


def _mounted(number: str, point: str, source: str) -> str:
    return f"25 1 {number} / {point} rw,relatime shared:1 master:2 - ext4 {source} rw\n"


def test_nobody(kernel: Kernel) -> None:
    assert users(kernel, "sda") == []


def test_mounts_of_it_and_of_its_partitions(kernel: Kernel) -> None:
    table = _mounted("8:1", "/srv\\040data", "/dev/sda1") + _mounted("8:2", "/other", "/dev/sda2")
    (kernel.root / "proc/self/mountinfo").write_text(table)
    assert users(kernel, "sda") == ["/dev/sda1 is mounted at /srv data"]


def test_a_mount_by_another_name(kernel: Kernel) -> None:
    (kernel.root / "proc/self/mountinfo").write_text(_mounted("8:0", "/", "/dev/root"))
    assert users(kernel, "sda") == ["/dev/sda is mounted at /"]


def test_a_mount_that_has_a_number_of_its_own(kernel: Kernel) -> None:
    (kernel.root / "proc/self/mountinfo").write_text(_mounted("0:41", "/srv", "/dev/sda"))
    assert users(kernel, "sda") == ["/dev/sda is mounted at /srv"]


def test_mounts_that_only_a_container_sees(kernel: Kernel) -> None:
    _process(kernel.root, "7", "mnt:[1]", _mounted("8:0", "/same", "/dev/sda"))
    _process(kernel.root, "8", "mnt:[2]", _mounted("8:0", "/inside", "/dev/sda"))
    _process(kernel.root, "9", "mnt:[2]", _mounted("8:0", "/inside", "/dev/sda"))
    assert users(kernel, "sda") == [
        "/dev/sda is mounted at /inside in the mount namespace of process 8"
    ]


def test_swap(kernel: Kernel) -> None:
    swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda1  partition 1 0 -2\n"
    (kernel.root / "proc/swaps").write_text(swaps)
    assert users(kernel, "sda") == ["/dev/sda1 is swap"]


def test_devices_on_top(kernel: Kernel) -> None:
    block = kernel.root / "sys/class/block"
    (block / "sda/holders/dm-0").mkdir(parents=True)
    (block / "sda/sda1/holders/md0").mkdir(parents=True)
    _write(block / "dm-0/dm/name", "vg-data")
    _write(block / "dm-0/dm/uuid", "LVM-x")
    assert users(kernel, "sda") == [
        "/dev/sda is held by /dev/mapper/vg-data",
        "/dev/sda1 is held by /dev/md0",
    ]


def test_partitions_of_a_multipath_device_go_with_it(kernel: Kernel) -> None:
    """kpartx makes them as devices on top; in use they count like other partitions."""
    block = kernel.root / "sys/class/block"
    _write(block / "dm-0/dm/uuid", "mpath-36001405")
    (block / "dm-0/holders/dm-1").mkdir(parents=True)
    _write(block / "dm-1/dm/uuid", "part1-mpath-36001405")
    _write(block / "dm-1/dev", "254:1")
    assert users(kernel, "dm-0") == []
    (kernel.root / "proc/self/mountinfo").write_text(_mounted("254:1", "/srv", "/dev/dm-1"))
    assert users(kernel, "dm-0") == ["/dev/dm-1 is mounted at /srv"]
