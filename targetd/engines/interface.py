"""What the daemon asks of LVM and LIO. Real and simulated engines answer alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from targetd.model import (
    Acl,
    AclStatistics,
    PoolConfig,
    PoolReport,
    Session,
    Snapshot,
    Target,
    Volume,
)

Origin = Volume | Snapshot
# Among what differed: there was no target at all, and so nothing in it.
NEW_TARGET = "target"
# Why the kernel refuses a login: a wrong secret; an initiator without access;
# parameters that it does not take; a target that is elsewhere; anything else.
REFUSED_LOGINS = ("authentication", "authorization", "negotiation", "redirect", "other")


class EngineError(Exception):
    """LVM or the kernel refused; the text is for the log, not for callers."""


class NoSpace(EngineError):
    """The pool cannot hold what was asked for; the text says what, and may be told."""


class NameTaken(EngineError):
    """A logical volume of that name is there already, and not the daemon's to use."""


class StillInUse(EngineError):
    """Somebody holds the device open."""


@dataclass(frozen=True)
class RetiredVolume:
    """What was deleted, whose name is free already and whose data still has to go."""

    operation_id: str
    pool: PoolConfig
    size_bytes: int
    # A thick snapshot that was still one of its volume's when it was last looked at.
    attached: bool = False


@dataclass
class Inventory:
    """All that LVM has of ours, active or not."""

    volumes: list[Volume] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    retired: list[RetiredVolume] = field(default_factory=list)
    # Ours by tag but not by name, as "group/name": half-way in or out by
    # adoption or release.
    strays: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Candidate:
    """A logical volume that somebody wants to be adopted."""

    size_bytes: int
    create_time: datetime
    # Why it cannot be, or an empty text.
    objection: str = ""


class LvmEngine(Protocol):
    def start(self) -> None:
        """Check what is needed. Raises StartError."""

    def pools(self) -> Sequence[PoolReport]: ...

    def inventory(self) -> Inventory: ...

    def rounded(self, pool: PoolConfig, size_bytes: int) -> int:
        """The size that a volume of so many bytes really gets."""

    # Every method that changes a volume group has flushed LVM's metadata to the
    # disk when it returns, and raises NoSpace where the pool is too small and
    # NameTaken where a foreign logical volume has the name that is to be given.

    def create(self, volume: Volume) -> Volume:
        """Make an empty volume; returns it as it has become."""

    def clone(self, volume: Volume, origin: Origin) -> Volume:
        """Make a volume that shares the origin's blocks, in the origin's thin pool."""

    def snapshot(self, snapshot: Snapshot, origin: Volume) -> Snapshot: ...

    def extend(self, volume: Volume, size_bytes: int) -> Volume: ...

    def finish_copy(self, volume: Volume) -> Volume:
        """Note on the volume that it has been filled."""

    def adopt(self, volume: Volume) -> Volume:
        """Take over the logical volume ``adopted_name`` of the volume's pool."""

    def candidate(self, pool: PoolConfig, lv_name: str) -> Candidate | None:
        """What stands under that name, or None. Raises StillInUse."""

    def release(self, volume: Volume, lv_name: str) -> str:
        """Let go of a volume under that name; returns its device. Raises StillInUse."""

    def release_stray(self, place: str) -> None: ...

    def activate(self, volume: Origin) -> None:
        """Make the device node appear; nothing is forked when it is there."""

    def remove(self, volume: Origin) -> None:
        """Remove for good. Raises StillInUse."""

    def retire(self, volume: Origin, operation_id: str) -> RetiredVolume:
        """Free the name, keep the data for the wipe. Raises StillInUse."""

    def wipe(self, retired: RetiredVolume, start_bytes: int, step_bytes: int) -> Iterator[int]:
        """Overwrite by the pool's policy, from ``start_bytes`` on.

        Yields after each step how many bytes are done and on the disk.
        """

    def remove_retired(self, retired: RetiredVolume) -> None: ...

    def copy(
        self, volume: Volume, origin: Origin, start_bytes: int, step_bytes: int
    ) -> Iterator[int]:
        """Fill the volume with the origin's data; yields as ``wipe`` does."""


class LioEngine(Protocol):
    def start(self) -> None:
        """Load and check what is needed. Raises StartError."""

    def targets(self) -> Iterable[str]:
        """The IQNs of all targets of the host. For start-up: it walks."""

    def forget_stray_backstores(self, wanted: Iterable[str]) -> list[str]:
        """Remove our unexported backstores of other volumes; returns their volume ids."""

    def ensure_target(self, target: Target) -> Sequence[str]:
        """Make or repair a target; returns what was not as it must be."""

    def remove_target(self, iqn: str, volume_id: str) -> None:
        """Remove a target, with its ACLs, and its backstore; absent is fine."""

    def acls(self, iqn: str) -> list[str]:
        """The initiators that have an ACL."""

    def has_acl(self, iqn: str, initiator: str) -> bool: ...

    def ensure_acl(self, iqn: str, acl: Acl) -> Sequence[str]:
        """Make or repair one initiator's access; returns what was not as it must be."""

    def remove_acl(self, iqn: str, initiator: str) -> bool:
        """Take the access away and close its sessions; returns whether one was live."""

    def session(self, iqn: str, initiator: str) -> Session | None: ...

    def session_count(self, iqn: str) -> int: ...

    def statistics(self, iqn: str, initiator: str) -> AclStatistics: ...

    def refused_login_count(self, iqn: str) -> int:
        """Since the target was made."""

    def refused_logins(self, iqn: str) -> Mapping[str, int]:
        """The same by kind, of ``REFUSED_LOGINS``."""
