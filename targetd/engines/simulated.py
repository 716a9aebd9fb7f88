"""LVM and LIO in memory, with the rules of the real ones that the logic relies on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from targetd.engines.interface import (
    NEW_TARGET,
    Candidate,
    EngineError,
    Inventory,
    NameTaken,
    NoSpace,
    Origin,
    RetiredVolume,
    StillInUse,
)
from targetd.model import (
    Acl,
    AclStatistics,
    PoolConfig,
    PoolReport,
    Provisioning,
    Session,
    Snapshot,
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
    refused: Counter[str] = field(default_factory=Counter)


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
        self._snapshots: dict[str, Snapshot] = {}
        self._retired: dict[str, RetiredVolume] = {}
        # Logical volumes that are not ours, by "group/name": thin pool and size.
        self.foreign: dict[str, tuple[str, int]] = {}
        # Each step of long work waits for it.
        self.may_step = threading.Event()
        self.may_step.set()

    def start(self) -> None:
        return None

    def pools(self) -> list[PoolReport]:
        return [self._report(config) for config in self._configs]

    def _report(self, config: PoolConfig) -> PoolReport:
        with self._host.lock:
            provisioned = sum(v.size_bytes for v in self._volumes.values() if v.pool == config)
            retired = sum(r.size_bytes for r in self._retired.values() if r.pool == config)
            reserved = sum(s.reserved_bytes for s in self._snapshots.values() if s.pool == config)
        thin = config.provisioning is Provisioning.THIN
        used = 0 if thin else provisioned + retired + reserved
        return PoolReport(
            config=config,
            total_bytes=self._pool_bytes,
            free_bytes=self._pool_bytes - used,
            provisioned_bytes=provisioned,
            extent_bytes=EXTENT_BYTES,
            vg_metadata_total_bytes=1 << 20,
            vg_metadata_free_bytes=1 << 19,
        )

    def inventory(self) -> Inventory:
        with self._host.lock:
            return Inventory(
                list(self._volumes.values()),
                list(self._snapshots.values()),
                list(self._retired.values()),
            )

    def rounded(self, pool: PoolConfig, size_bytes: int) -> int:
        return -(-size_bytes // EXTENT_BYTES) * EXTENT_BYTES

    def create(self, volume: Volume) -> Volume:
        made = replace(volume, size_bytes=self.rounded(volume.pool, volume.size_bytes))
        self._refuse_lack(made.pool, made.size_bytes)
        return self._put(made)

    def clone(self, volume: Volume, origin: Origin) -> Volume:
        return self._put(replace(volume, size_bytes=self.rounded(volume.pool, volume.size_bytes)))

    def _put(self, volume: Volume) -> Volume:
        with self._host.lock:
            self._refuse_taken(volume)
            self._volumes[volume.lv_name] = volume
        return volume

    def _refuse_taken(self, wanted: Origin) -> None:
        place = f"{wanted.pool.volume_group}/{wanted.lv_name}"
        if place in self.foreign:
            raise NameTaken(place)
        if self._is_ours(wanted.lv_name):
            raise EngineError(f"{place} exists")

    def _is_ours(self, lv_name: str) -> bool:
        return (
            lv_name in self._volumes
            or lv_name in self._snapshots
            or lv_name.removeprefix("deleted-") in self._retired
        )

    def snapshot(self, snapshot: Snapshot, origin: Volume) -> Snapshot:
        made = replace(snapshot, size_bytes=origin.size_bytes)
        if snapshot.pool.provisioning is Provisioning.THICK:
            # No more than the whole volume's changes can take.
            reserved = min(snapshot.reserve_bytes or origin.size_bytes, origin.size_bytes)
            reserved = self.rounded(snapshot.pool, reserved)
            self._refuse_lack(snapshot.pool, reserved)
            made = replace(made, reserved_bytes=reserved)
        with self._host.lock:
            self._refuse_taken(made)
            self._snapshots[made.lv_name] = made
        return made

    def _refuse_lack(self, pool: PoolConfig, needed_bytes: int) -> None:
        if pool.provisioning is Provisioning.THICK and needed_bytes > self._report(pool).free_bytes:
            raise NoSpace(f"pool {pool.name} has no {needed_bytes} bytes free")

    def extend(self, volume: Volume, size_bytes: int) -> Volume:
        size_bytes = self.rounded(volume.pool, size_bytes)
        self._refuse_lack(volume.pool, size_bytes - volume.size_bytes)
        return self._replaced(replace(volume, size_bytes=size_bytes))

    def finish_copy(self, volume: Volume) -> Volume:
        return self._replaced(replace(volume, copy_id=""))

    def _replaced(self, volume: Volume) -> Volume:
        with self._host.lock:
            self._volumes[volume.lv_name] = volume
        return volume

    def activate(self, volume: Origin) -> None:
        return None

    def candidate(self, pool: PoolConfig, lv_name: str) -> Candidate | None:
        with self._host.lock:
            if self._is_ours(lv_name):
                return Candidate(0, datetime.now(UTC), "belongs to targetd already")
            found = self.foreign.get(f"{pool.volume_group}/{lv_name}")
        if found is None:
            return None
        thin_pool, size_bytes = found
        objection = "" if thin_pool == pool.thin_pool else f"is not in pool {pool.name}"
        return Candidate(size_bytes, datetime.now(UTC), objection)

    def adopt(self, volume: Volume) -> Volume:
        place = f"{volume.pool.volume_group}/{volume.adopted_name}"
        with self._host.lock:
            found = self.foreign.pop(place, None)
            if found is None:
                raise EngineError(f"{place} is not there")
            try:
                self._refuse_taken(volume)
            except EngineError:
                self.foreign[place] = found
                raise
            self._volumes[volume.lv_name] = volume
        return volume

    def release(self, volume: Volume, lv_name: str) -> str:
        self._refuse_in_use(volume)
        place = f"{volume.pool.volume_group}/{lv_name}"
        with self._host.lock:
            other = lv_name != volume.lv_name
            if other and (self._is_ours(lv_name) or place in self.foreign):
                raise NameTaken(place)
            self._take_away(volume)
            self.foreign[place] = (volume.pool.thin_pool, volume.size_bytes)
        return f"/dev/{place}"

    def release_stray(self, place: str) -> None:
        return None

    def remove(self, volume: Origin) -> None:
        self._refuse_in_use(volume)
        with self._host.lock:
            self._take_away(volume)

    def retire(self, volume: Origin, operation_id: str) -> RetiredVolume:
        self._refuse_in_use(volume)
        with self._host.lock:
            self._take_away(volume)
            retired = RetiredVolume(operation_id, volume.pool, volume.size_bytes)
            self._retired[operation_id] = retired
        return retired

    def _take_away(self, volume: Origin) -> None:
        ours: dict[str, Any] = self._volumes if isinstance(volume, Volume) else self._snapshots
        if ours.pop(volume.lv_name, None) is None:
            raise EngineError(f"{volume.lv_name} is not there")

    def wipe(self, retired: RetiredVolume, start_bytes: int, step_bytes: int) -> Iterator[int]:
        yield from self._steps(retired.size_bytes, start_bytes, step_bytes)

    def remove_retired(self, retired: RetiredVolume) -> None:
        with self._host.lock:
            del self._retired[retired.operation_id]

    def copy(
        self, volume: Volume, origin: Origin, start_bytes: int, step_bytes: int
    ) -> Iterator[int]:
        yield from self._steps(origin.size_bytes, start_bytes, step_bytes)

    def _steps(self, size_bytes: int, start_bytes: int, step_bytes: int) -> Iterator[int]:
        for start in range(start_bytes, size_bytes, step_bytes):
            self.may_step.wait()
            yield min(start + step_bytes, size_bytes)

    def _refuse_in_use(self, volume: Origin) -> None:
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

    def ensure_target(self, target: Target) -> Sequence[str]:
        with self._host.lock:
            if target.iqn in self._host.targets:
                return []
            if target.device_path in self._host.held_devices:
                raise EngineError(f"{target.device_path} is busy")
            self._host.targets[target.iqn] = SimulatedTarget(target)
            self._host.held_devices[target.device_path] = target.iqn
            return [NEW_TARGET]

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

    def ensure_acl(self, iqn: str, acl: Acl) -> Sequence[str]:
        found = self._host.targets.get(iqn)
        if found is None:
            raise EngineError(f"no target {iqn}")
        before = found.acls.get(acl.initiator)
        found.acls[acl.initiator] = acl
        return [] if before == acl else [f"acl {acl.initiator}"]

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
        if found is None:
            return False
        if acl is None:
            found.refused["authorization"] += 1
            return False
        if (acl.credentials.username, acl.credentials.password) != (username, password):
            found.refused["authentication"] += 1
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

    def refused_login_count(self, iqn: str) -> int:
        return sum(self.refused_logins(iqn).values())

    def refused_logins(self, iqn: str) -> Mapping[str, int]:
        found = self._host.targets.get(iqn)
        return dict(found.refused) if found else {}
