"""Logical volumes taken over as they are, with their data, and let go of again."""

from __future__ import annotations

import logging

from targetd.catalog import Catalog
from targetd.engines.interface import EngineError, LvmEngine
from targetd.errors import AlreadyExists, FailedPrecondition, NotFound, TargetdError
from targetd.failpoints import failpoint
from targetd.model import PoolConfig, Volume
from targetd.pins import Pins
from targetd.refusals import engine_refusals
from targetd.volumes import Volumes, refuse_copying
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)


class Adoption:
    def __init__(
        self,
        catalog: Catalog,
        lvm: LvmEngine,
        workers: VolumeWorkers,
        volumes: Volumes,
        pins: Pins,
    ) -> None:
        self._catalog = catalog
        self._lvm = lvm
        self._workers = workers
        self._volumes = volumes
        self._pins = pins

    def adopt(
        self,
        volume_id: str,
        pool: PoolConfig,
        lv_name: str,
        multi_attach: bool,
        deadline: Deadline,
    ) -> Volume:
        def work() -> Volume:
            existing = self._catalog.find_volume(volume_id)
            if existing is not None:
                if (existing.pool, existing.adopted_name, existing.multi_attach) == (
                    pool,
                    lv_name,
                    multi_attach,
                ):
                    return existing
                raise AlreadyExists(
                    f"volume {volume_id} exists and was not adopted from {lv_name} with these "
                    "parameters",
                    volume_id=volume_id,
                )
            # Two callers must not adopt the same logical volume as two volumes.
            with self._pins.taken(f"{pool.volume_group}/{lv_name}"):
                wanted = self._wanted(volume_id, pool, lv_name, multi_attach)
                deadline.check()
                self._volumes.claim_identity(volume_id)
                return self._adopt(wanted)

        return self._workers.run(volume_id, deadline, work)

    def _wanted(self, volume_id: str, pool: PoolConfig, lv_name: str, multi_attach: bool) -> Volume:
        place = f"{pool.volume_group}/{lv_name}"
        with engine_refusals(f"{place} cannot be adopted", lv_name=lv_name):
            candidate = self._lvm.candidate(pool, lv_name)
        if candidate is None:
            raise NotFound(f"logical volume {place} does not exist", lv_name=lv_name)
        if candidate.objection:
            raise FailedPrecondition(
                f"{place} cannot be adopted: it {candidate.objection}",
                reason="NOT_ADOPTABLE",
                lv_name=lv_name,
            )
        return Volume(
            volume_id=volume_id,
            pool=pool,
            size_bytes=candidate.size_bytes,
            multi_attach=multi_attach,
            create_time=candidate.create_time,
            adopted_name=lv_name,
        )

    def _adopt(self, wanted: Volume) -> Volume:
        try:
            with engine_refusals(
                f"LVM did not hand over {wanted.adopted_name}", lv_name=wanted.adopted_name
            ):
                adopted = self._lvm.adopt(wanted)
            failpoint("volume-adopted")
            self._catalog.put_volume(adopted)
        except TargetdError:
            self._give_back(f"{wanted.pool.volume_group}/{wanted.adopted_name}")
            raise
        finally:
            self._volumes.unclaim_identity(wanted.volume_id)
        return adopted

    def _give_back(self, place: str) -> None:
        try:
            self._lvm.release_stray(place)
        except EngineError as error:
            # The next start does it.
            log.error("%s keeps the tags of targetd for now: %s", place, error)

    def release(self, volume_id: str, lv_name: str, deadline: Deadline) -> str:
        """Returns the device of what is no volume any more; empty where there was none."""

        def work() -> str:
            volume = self._catalog.find_volume(volume_id)
            if volume is None:
                return ""
            with self._pins.taken(volume.lv_name):
                refuse_copying(volume)
                self._volumes.refuse_in_use(volume)
                deadline.check()
                return self._release(volume, lv_name or volume.lv_name)

        return self._workers.run(volume_id, deadline, work)

    def _release(self, volume: Volume, lv_name: str) -> str:
        with engine_refusals(
            f"LVM did not let go of volume {volume.volume_id}", volume_id=volume.volume_id
        ):
            device_path = self._lvm.release(volume, lv_name)
        failpoint("volume-released")
        self._catalog.drop_volume(volume.volume_id)
        return device_path
