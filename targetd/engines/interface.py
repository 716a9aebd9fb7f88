"""What the daemon asks of LVM and LIO. Real and simulated engines answer alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from targetd.model import Acl, AclStatistics, PoolConfig, PoolReport, Session, Target, Volume


class EngineError(Exception):
    """LVM or the kernel refused; the text is for the log, not for callers."""


class NoSpace(EngineError):
    """The pool cannot hold what was asked for."""


class StillInUse(EngineError):
    """Somebody holds the device open."""


@dataclass(frozen=True)
class RetiredVolume:
    """A deleted volume whose name is free already and whose data still has to go."""

    operation_id: str
    pool: PoolConfig
    size_bytes: int


class LvmEngine(Protocol):
    def start(self) -> None:
        """Check what is needed. Raises StartError."""

    def pools(self) -> Sequence[PoolReport]: ...

    def volumes(self) -> Sequence[Volume]:
        """Every volume of ours, active or not."""

    def retired(self) -> Sequence[RetiredVolume]: ...

    def create(
        self, volume_id: str, pool: PoolConfig, size_bytes: int, multi_attach: bool
    ) -> Volume:
        """Make a volume and flush LVM's metadata to the disk. Raises NoSpace."""

    def extend(self, volume: Volume, size_bytes: int) -> Volume:
        """Grow a volume and flush LVM's metadata. Raises NoSpace."""

    def activate(self, volume: Volume) -> None:
        """Make the device node appear; nothing is forked when it is there."""

    def is_active(self, volume: Volume) -> bool: ...

    def remove(self, volume: Volume) -> None:
        """Remove a volume for good. Raises StillInUse."""

    def retire(self, volume: Volume, operation_id: str) -> RetiredVolume:
        """Free the volume's name, keep its data for the wipe. Raises StillInUse."""

    def wipe(self, retired: RetiredVolume, progress: Callable[[int], None]) -> None:
        """Overwrite with zeros; ``progress`` gets the bytes done so far."""

    def remove_retired(self, retired: RetiredVolume) -> None: ...


class LioEngine(Protocol):
    def start(self) -> None:
        """Load and check what is needed. Raises StartError."""

    def targets(self) -> Iterable[str]:
        """The IQNs of all targets of the host. For start-up: it walks."""

    def forget_stray_backstores(self, wanted: Iterable[str]) -> list[str]:
        """Remove our unexported backstores of other volumes; returns their volume ids."""

    def ensure_target(self, target: Target) -> bool:
        """Make or repair a target; returns whether anything was changed."""

    def remove_target(self, iqn: str, volume_id: str) -> None:
        """Remove a target, with its ACLs, and its backstore; absent is fine."""

    def acls(self, iqn: str) -> list[str]:
        """The initiators that have an ACL."""

    def has_acl(self, iqn: str, initiator: str) -> bool: ...

    def ensure_acl(self, iqn: str, acl: Acl) -> None:
        """Make or repair one initiator's access."""

    def remove_acl(self, iqn: str, initiator: str) -> bool:
        """Take the access away and close its sessions; returns whether one was live."""

    def session(self, iqn: str, initiator: str) -> Session | None: ...

    def session_count(self, iqn: str) -> int: ...

    def statistics(self, iqn: str, initiator: str) -> AclStatistics: ...
