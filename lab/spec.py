"""What a node is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Disk:
    """A sparse file that the node sees as /dev/ubda, /dev/ubdb, ... in the order given.

    It outlives power cuts and reboots, and goes with the lab.
    """

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Spec:
    name: str
    # Disks without names of their own; those of ``disks`` come after them.
    disks_bytes: tuple[int, ...] = ()
    memory_mib: int = 256
    systemd: bool = False
    # Ports on the lab's networks: 2 gives two paths to the node.
    ports: int = 1
    disks: tuple[Disk, ...] = ()

    @property
    def all_disks(self) -> tuple[Disk, ...]:
        unnamed = (Disk(f"disk{n}", size) for n, size in enumerate(self.disks_bytes))
        return (*unnamed, *self.disks)
