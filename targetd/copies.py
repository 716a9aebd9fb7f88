"""Volumes made from a snapshot or from another volume: cloned at once, or filled by a copy.

Within one thin pool a new volume shares its source's blocks. Anywhere else it
is made empty and tagged with the operation that fills it; a volume as source
is first held still by a snapshot of its own, which goes when the copy ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.engines.interface import EngineError, LvmEngine, Origin
from targetd.errors import Aborted
from targetd.failpoints import failpoint
from targetd.model import (
    OperationKind,
    Provisioning,
    Snapshot,
    Source,
    SourceKind,
    Volume,
    copy_source_name,
    snapshot_name,
    volume_name,
)
from targetd.operations import Operations, Work, new_id
from targetd.pins import Pins
from targetd.wipes import Wipes

log = logging.getLogger(__name__)


class Copies:
    def __init__(
        self,
        catalog: Catalog,
        lvm: LvmEngine,
        operations: Operations,
        wipes: Wipes,
        pins: Pins,
    ) -> None:
        self._catalog = catalog
        self._lvm = lvm
        self._operations = operations
        self._wipes = wipes
        self._pins = pins
        # Volumes whose making has a source held still already.
        self._making: set[str] = set()

    @contextmanager
    def held(self, source: Source | None) -> Iterator[Origin | None]:
        """The source of a volume to be made, kept from going meanwhile.

        Raises NotFound, and Aborted while it is going already.
        """
        if source is None:
            yield None
        elif source.kind is SourceKind.SNAPSHOT:
            with self._pins.pinned(snapshot_name(source.source_id)):
                yield self._catalog.snapshot(source.source_id)
        else:
            with self._pins.pinned(volume_name(source.source_id)):
                yield self._catalog.volume(source.source_id)

    def make(self, volume: Volume, origin: Origin) -> Volume:
        """Make a volume from its source; ``begin`` then fills it where it must.

        Raises EngineError or a kind of it.
        """
        if volume.pool == origin.pool and volume.pool.provisioning is Provisioning.THIN:
            return self._lvm.clone(volume, origin)
        if isinstance(origin, Volume):
            self._hold_still(volume, origin)
        failpoint("copy-source-made")
        return self._lvm.create(replace(volume, copy_id=new_id(volume.volume_id)))

    def _hold_still(self, volume: Volume, origin: Volume) -> None:
        snapshot = Snapshot(
            snapshot_id=volume.volume_id,
            volume_id=origin.volume_id,
            pool=origin.pool,
            size_bytes=origin.size_bytes,
            create_time=datetime.now(UTC),
            for_copy=True,
        )
        self._making.add(volume.volume_id)
        self._catalog.put_snapshot(self._lvm.snapshot(snapshot, origin))

    def begin(self, volume: Volume) -> None:
        """Start, or go on, to fill a volume that is tagged for it. Raises NotFound."""
        origin = self._copied_from(volume)
        self._operations.begin(
            Work(
                kind=OperationKind.COPY,
                operation_id=volume.copy_id,
                volume_id=volume.volume_id,
                total_bytes=origin.size_bytes,
                steps=lambda start, step: self._lvm.copy(volume, origin, start, step),
                finish=self._finish(volume),
            )
        )
        self._making.discard(volume.volume_id)

    def _copied_from(self, volume: Volume) -> Origin:
        held = self._catalog.find_copy_source(volume.volume_id)
        if held is not None:
            return held
        return self._catalog.snapshot(volume.source.source_id if volume.source else "")

    def _finish(self, volume: Volume) -> Callable[[], None]:
        def finish() -> None:
            failpoint("copy-filled")
            filled = self._lvm.finish_copy(self._catalog.volume(volume.volume_id))
            failpoint("copy-finished")
            # Who sees the volume AVAILABLE may do with its source what he likes.
            self.let_go(volume.volume_id)
            self._catalog.put_volume(filled)

        return finish

    def let_go(self, volume_id: str) -> None:
        """Remove the snapshot that a volume was filled from, where there is one."""
        self._making.discard(volume_id)
        try:
            with self._pins.taken(copy_source_name(volume_id)):
                held = self._catalog.find_copy_source(volume_id)
                if held is not None:
                    self._wipes.remove(held)
                    self._catalog.drop_snapshot(held)
        except EngineError as error:
            # The next reconcile tries again.
            log.error("%s stays for now: %s", copy_source_name(volume_id), error)
        except Aborted:
            log.info("%s is being removed already", copy_source_name(volume_id))

    def let_go_of_all_done(self) -> None:
        """Remove the snapshots of copies that have ended, which a crash left behind."""
        for held in self._catalog.copy_sources():
            if held.snapshot_id in self._making:
                continue
            volume = self._catalog.find_volume(held.snapshot_id)
            if volume is None or not volume.copy_id:
                self.let_go(held.snapshot_id)

    def stop(self, volume: Volume, seconds: float) -> bool:
        """End the filling of a volume that is to go; returns whether it has ended in time."""
        if not self._operations.cancel(volume.copy_id, seconds):
            return False
        self.let_go(volume.volume_id)
        return True

    def from_snapshot(self, snapshot_id: str) -> list[str]:
        """The volumes that are being filled from a snapshot."""
        source = Source(SourceKind.SNAPSHOT, snapshot_id)
        return [
            volume.volume_id
            for volume in self._catalog.volumes()
            if volume.copy_id and volume.source == source
        ]
