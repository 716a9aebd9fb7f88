"""Steps of random histories: volumes, snapshots, copies, adoptions."""

from __future__ import annotations

import threading
import uuid

from targetd.api.v1 import volume_pb2
from tests.answers import wait_for_copies
from tests.hosts import MEBIBYTE, SimulatedBacking
from tests.machine import VOLUME_IDS, Chance, Steps, mostly
from tests.model import EXTENT_BYTES, HUGE_BYTES, Source

SNAPSHOT_IDS = tuple(str(uuid.UUID(int=number << 96 | 0x4000 << 64)) for number in (8, 9))
# The last one is that of a volume which was let go of and has kept its name.
LV_NAMES = ("data", "more", f"volume-{VOLUME_IDS[0]}")
RELEASE_SECONDS = 0.01

POOLS = ("thin", "thick")
SIZES = (1, EXTENT_BYTES, 5 * MEBIBYTE, 6 * EXTENT_BYTES, HUGE_BYTES)
SOURCE_KINDS = ("snapshot", "volume")
# What is done about a copy that has begun.
ENDINGS = ("hold", "hold", "hold", "hold", "wait", "delete")


class VolumeSteps(Steps):
    # Made empty, grown, deleted

    def create(self, chance: Chance) -> None:
        self.make(self.new_volume_id(chance), chance.pick(POOLS), chance.pick(SIZES), chance)

    def make(
        self,
        volume_id: str,
        pool: str,
        size: int,
        chance: Chance,
        source: Source | None = None,
    ) -> None:
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id, pool=pool, size_bytes=size, multi_attach=chance.pick((False, True))
        )
        if source is not None:
            setattr(request, f"source_{source[0]}_id", source[1])
        reason = self.model.create(volume_id, pool, size, request.multi_attach, source)
        name = "create from" if source else "create"
        self.ask(name, reason, self.host.volumes.CreateVolume, request)

    def extend(self, chance: Chance) -> None:
        volume_id, size = self.volume_id(chance), chance.pick(SIZES)
        reason = self.model.extend(volume_id, size)
        request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size)
        self.ask("extend", reason, self.host.volumes.ExtendVolume, request)

    def delete(self, chance: Chance) -> None:
        self._delete(self.volume_id(chance))

    def _delete(self, volume_id: str) -> None:
        volume = self.model.volumes.get(volume_id)
        filling = volume is not None and volume.copying
        reason = self.model.delete(volume_id)
        if filling:
            # It waits until the copy notices; all others go on then too.
            threading.Timer(RELEASE_SECONDS, self._release_copies).start()
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        name = "delete filling" if filling else "delete"
        answer = self.ask(name, reason, self.host.volumes.DeleteVolume, request)
        if answer is not None:
            wiped = volume is not None and volume.pool == "thick"
            assert bool(answer.operation_id) == wiped
        if filling:
            self.end_copies()

    # From a source

    def create_from(self, chance: Chance) -> None:
        kind = chance.pick(SOURCE_KINDS)
        source_id = self.volume_id(chance)
        if kind == "snapshot":
            source_id = chance.pick(mostly(self.model.snapshots, SNAPSHOT_IDS[-1:]))
        volume_id, size = self.new_volume_id(chance), chance.pick(SIZES)
        origin = self.model.origin((kind, source_id))
        if origin and chance.pick(range(4)):
            size = origin.size_bytes
        ending = chance.pick(ENDINGS)
        if ending != "wait":
            self._hold_copies()
        self.make(volume_id, chance.pick(POOLS), size, chance, (kind, source_id))
        volume = self.model.volumes.get(volume_id)
        if volume is None or not volume.copying:
            return
        if ending == "delete":
            self._delete(volume_id)
        elif ending == "wait" or not self.holds_copies:
            self.end_copies()

    def _hold_copies(self) -> None:
        if self.holds_copies and isinstance(self.host.backing, SimulatedBacking):
            self.host.backing.lvm.may_step.clear()

    def _release_copies(self) -> None:
        if isinstance(self.host.backing, SimulatedBacking):
            self.host.backing.lvm.may_step.set()

    def end_copies(self) -> None:
        self._release_copies()
        wait_for_copies(self.host)
        for volume in self.model.volumes.values():
            self.seen["filled", ""] += volume.copying
            volume.copying = False

    # Snapshots

    def snapshot(self, chance: Chance) -> None:
        snapshot_id, volume_id = chance.pick(SNAPSHOT_IDS), self.volume_id(chance)
        reserve = chance.pick((0, 0, 0, 5 * MEBIBYTE, HUGE_BYTES))
        reason = self.model.snapshot(snapshot_id, volume_id, reserve)
        request = volume_pb2.CreateSnapshotRequest(
            snapshot_id=snapshot_id, volume_id=volume_id, reserve_bytes=reserve
        )
        self.ask("snapshot", reason, self.host.volumes.CreateSnapshot, request)

    def delete_snapshot(self, chance: Chance) -> None:
        snapshot_id = chance.pick(mostly(self.model.snapshots, SNAPSHOT_IDS))
        snapshot = self.model.snapshots.get(snapshot_id)
        reason = self.model.delete_snapshot(snapshot_id)
        request = volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        method = self.host.volumes.DeleteSnapshot
        answer = self.ask("delete snapshot", reason, method, request)
        if answer is not None:
            wiped = snapshot is not None and snapshot.pool == "thick"
            assert bool(answer.operation_id) == wiped

    # Taken over, let go of

    def adopt(self, chance: Chance) -> None:
        volume_id, pool = self.new_volume_id(chance), chance.pick(POOLS)
        lv_name, multi_attach = chance.pick(LV_NAMES), chance.pick((False, True))
        if lv_name in LV_NAMES[:2] and not self.model.foreign:
            in_pool = pool if chance.pick((False, True)) else "thin"
            self.host.backing.make_foreign(lv_name, EXTENT_BYTES, in_pool)
            self.model.foreign[lv_name] = (in_pool, EXTENT_BYTES)
        reason = self.model.adopt(volume_id, pool, lv_name, multi_attach)
        request = volume_pb2.AdoptVolumeRequest(
            volume_id=volume_id, pool=pool, lv_name=lv_name, multi_attach=multi_attach
        )
        self.ask("adopt", reason, self.host.volumes.AdoptVolume, request)

    def release(self, chance: Chance) -> None:
        volume_id, lv_name = self.volume_id(chance), chance.pick(("", *LV_NAMES))
        there = volume_id in self.model.volumes
        reason = self.model.release(volume_id, lv_name)
        request = volume_pb2.ReleaseVolumeRequest(volume_id=volume_id, lv_name=lv_name)
        answer = self.ask("release", reason, self.host.volumes.ReleaseVolume, request)
        if answer is not None:
            path = f"/dev/storage/{lv_name or f'volume-{volume_id}'}" if there else ""
            assert answer.device_path == path
