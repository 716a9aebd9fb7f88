"""LVM and LIO in memory, with the rules of the real ones that the logic relies on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from targetd.engines.interface import EngineError, NoSpace, RetiredVolume, StillInUse
from targetd.model import (
    Acl,
    AclStatistics,
    PoolConfig,
    PoolReport,
    Provisioning,
    Session,
    Target,
    Volume,
)

EXTENT_BYTES = 4 << 20
POOL_BYTES = 1 << 40


@dataclass
class SimulatedTarget:
    target: Target
    acls: dict[str, Acl] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)


class SimulatedHost:
    """What the two simulated engines share: which device is held open by whom."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.targets: dict[str, SimulatedTarget] = {}
        self.held_devices: dict[str, str] = {}


class SimulatedLvm:
    def __init__(
        self, pools: Sequence[PoolConfig], host: SimulatedHost, pool_bytes: int = POOL_BYTES
    ) -> None:
        self._configs = tuple(pools)
        self._host = host
        self._pool_bytes = pool_bytes
        self._volumes: dict[str, Volume] = {}
        self._retired: dict[str, RetiredVolume] = {}
        self._active: set[str] = set()

    def start(self) -> None:
        return None

    def pools(self) -> list[PoolReport]:
        return [self._report(config) for config in self._configs]

    def _report(self, config: PoolConfig) -> PoolReport:
        provisioned = sum(v.size_bytes for v in self._volumes.values() if v.pool == config)
        provisioned += sum(r.size_bytes for r in self._retired.values() if r.pool == config)
        used = 0 if config.provisioning is Provisioning.THIN else provisioned
        return PoolReport(
            config=config,
            total_bytes=self._pool_bytes,
            free_bytes=self._pool_bytes - used,
            provisioned_bytes=provisioned,
            extent_bytes=EXTENT_BYTES,
            vg_metadata_total_bytes=1 << 20,
            vg_metadata_free_bytes=1 << 19,
        )

    def volumes(self) -> list[Volume]:
        return list(self._volumes.values())

    def retired(self) -> list[RetiredVolume]:
        return list(self._retired.values())

    def create(
        self, volume_id: str, pool: PoolConfig, size_bytes: int, multi_attach: bool
    ) -> Volume:
        size_bytes = _rounded(size_bytes)
        self._refuse_lack(pool, size_bytes)
        volume = Volume(volume_id, pool, size_bytes, multi_attach, datetime.now(UTC))
        self._volumes[volume_id] = volume
        self._active.add(volume_id)
        return volume

    def _refuse_lack(self, pool: PoolConfig, needed_bytes: int) -> None:
        if pool.provisioning is Provisioning.THICK and needed_bytes > self._report(pool).free_bytes:
            raise NoSpace(f"pool {pool.name} has no {needed_bytes} bytes free")

    def extend(self, volume: Volume, size_bytes: int) -> Volume:
        size_bytes = _rounded(size_bytes)
        self._refuse_lack(volume.pool, size_bytes - volume.size_bytes)
        grown = replace(volume, size_bytes=size_bytes)
        self._volumes[volume.volume_id] = grown
        return grown

    def activate(self, volume: Volume) -> None:
        self._active.add(volume.volume_id)

    def is_active(self, volume: Volume) -> bool:
        return volume.volume_id in self._active

    def remove(self, volume: Volume) -> None:
        self._refuse_in_use(volume)
        del self._volumes[volume.volume_id]

    def retire(self, volume: Volume, operation_id: str) -> RetiredVolume:
        self._refuse_in_use(volume)
        del self._volumes[volume.volume_id]
        retired = RetiredVolume(operation_id, volume.pool, volume.size_bytes)
        self._retired[operation_id] = retired
        return retired

    def wipe(self, retired: RetiredVolume, progress: Callable[[int], None]) -> None:
        progress(retired.size_bytes)

    def remove_retired(self, retired: RetiredVolume) -> None:
        del self._retired[retired.operation_id]

    def _refuse_in_use(self, volume: Volume) -> None:
        if volume.device_path in self._host.held_devices:
            raise StillInUse(volume.device_path)


class SimulatedLio:
    def __init__(self, host: SimulatedHost) -> None:
        self._host = host

    def start(self) -> None:
        return None

    def targets(self) -> Iterable[str]:
        return list(self._host.targets)

    def forget_stray_backstores(self, wanted: Iterable[str]) -> list[str]:
        return []

    def ensure_target(self, target: Target) -> bool:
        with self._host.lock:
            if target.iqn in self._host.targets:
                return False
            if target.device_path in self._host.held_devices:
                raise EngineError(f"{target.device_path} is busy")
            self._host.targets[target.iqn] = SimulatedTarget(target)
            self._host.held_devices[target.device_path] = target.iqn
            return True

    def remove_target(self, iqn: str, volume_id: str) -> None:
        with self._host.lock:
            found = self._host.targets.pop(iqn, None)
            if found is not None:
                del self._host.held_devices[found.target.device_path]

    def acls(self, iqn: str) -> list[str]:
        found = self._host.targets.get(iqn)
        return list(found.acls) if found else []

    def has_acl(self, iqn: str, initiator: str) -> bool:
        return initiator in self.acls(iqn)

    def ensure_acl(self, iqn: str, acl: Acl) -> None:
        found = self._host.targets.get(iqn)
        if found is None:
            raise EngineError(f"no target {iqn}")
        found.acls[acl.initiator] = acl

    def remove_acl(self, iqn: str, initiator: str) -> bool:
        found = self._host.targets.get(iqn)
        if found is None:
            return False
        found.acls.pop(initiator, None)
        return found.sessions.pop(initiator, None) is not None

    def log_in(self, iqn: str, initiator: str, username: str, password: str) -> bool:
        """What an initiator does; returns whether it was let in."""
        found = self._host.targets.get(iqn)
        acl = found.acls.get(initiator) if found else None
        if found is None or acl is None:
            return False
        if (acl.credentials.username, acl.credentials.password) != (username, password):
            return False
        found.sessions[initiator] = Session(initiator, "1", "LOGGED_IN", ("192.0.2.1",))
        return True

    def log_out(self, iqn: str, initiator: str) -> None:
        """What an initiator does."""
        found = self._host.targets.get(iqn)
        if found is not None:
            found.sessions.pop(initiator, None)

    def session(self, iqn: str, initiator: str) -> Session | None:
        found = self._host.targets.get(iqn)
        return found.sessions.get(initiator) if found else None

    def session_count(self, iqn: str) -> int:
        found = self._host.targets.get(iqn)
        return len(found.sessions) if found else 0

    def statistics(self, iqn: str, initiator: str) -> AclStatistics:
        return AclStatistics()


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // EXTENT_BYTES) * EXTENT_BYTES
