"""Exports: one target per volume, made before anybody is let in and removed after all have left."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.engines.interface import EngineError, LioEngine, LvmEngine
from targetd.errors import FailedPrecondition, Unavailable
from targetd.failpoints import failpoint
from targetd.model import Export, Volume
from targetd.naming import Naming
from targetd.secretbox import new_credentials
from targetd.state import State
from targetd.volumes import refuse_copying
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)


class Exports:
    def __init__(
        self,
        catalog: Catalog,
        lvm: LvmEngine,
        lio: LioEngine,
        state: State,
        workers: VolumeWorkers,
        naming: Naming,
    ) -> None:
        self._catalog = catalog
        self._lvm = lvm
        self._lio = lio
        self._state = state
        self._workers = workers
        self._naming = naming
        self._iqn = naming.iqn

    def create(self, volume_id: str, deadline: Deadline) -> Export:
        def work() -> Export:
            volume = self._catalog.volume(volume_id)
            refuse_copying(volume)
            existing = self._catalog.find_export(volume_id)
            if existing is None:
                return self._create(volume)
            self.ensure_target(volume)
            return self._with_secret(existing)

        return self._workers.run(volume_id, deadline, work)

    def _create(self, volume: Volume) -> Export:
        secret = new_credentials() if self._naming.chap_per_export else None
        export = Export(volume.volume_id, datetime.now(UTC), secret)
        self._state.put_export(export)
        failpoint("export-recorded")
        try:
            self._make_target(volume)
        except Unavailable:
            self._undo_create(export)
            raise
        failpoint("export-made")
        self._catalog.put_export(export)
        return export

    def _with_secret(self, export: Export) -> Export:
        """An export that was made before the configuration asked for a secret gets one."""
        if export.credentials is not None or not self._naming.chap_per_export:
            return export
        completed = replace(export, credentials=new_credentials())
        self._state.put_export(completed)
        self._catalog.put_export(completed)
        return completed

    def _make_target(self, volume: Volume) -> None:
        try:
            self._lio.ensure_target(self._naming.target(volume))
        except EngineError:
            # Only now is it worth a look whether there is a device: mostly there is.
            self.ensure_target(volume)

    def ensure_target(self, volume: Volume) -> list[str]:
        """Make the volume's target right; returns what was not. Raises Unavailable."""
        try:
            self._lvm.activate(volume)
            differed = self._lio.ensure_target(self._naming.target(volume))
        except EngineError as error:
            log.error("volume %s cannot be exported: %s", volume.volume_id, error)
            raise Unavailable(
                f"the kernel did not export volume {volume.volume_id}; the log says why",
                volume_id=volume.volume_id,
            ) from error
        self._catalog.clear_degraded(volume.volume_id)
        return list(differed)

    def _undo_create(self, export: Export) -> None:
        try:
            self._lio.remove_target(self._iqn(export.volume_id), export.volume_id)
        except EngineError as error:
            # The record stays, so that the next start or call goes on with it.
            log.error("volume %s: the half-made export stays: %s", export.volume_id, error)
            self._catalog.put_export(export)
            return
        self._state.remove_export(export.volume_id)

    def remove(self, volume_id: str, deadline: Deadline) -> None:
        def work() -> None:
            if self._catalog.find_export(volume_id) is None:
                return
            attachments = [c.attachment_id for c in self._catalog.connections(volume_id)]
            if attachments:
                raise FailedPrecondition(
                    f"the export of volume {volume_id} has connections: "
                    f"{', '.join(attachments)}; terminate them first",
                    reason="HAS_CONNECTIONS",
                    volume_id=volume_id,
                    attachment_ids=",".join(attachments),
                )
            self._remove(volume_id)

        self._workers.run(volume_id, deadline, work)

    def _remove(self, volume_id: str) -> None:
        try:
            self._lio.remove_target(self._iqn(volume_id), volume_id)
        except EngineError as error:
            log.error("the export of %s cannot be removed: %s", volume_id, error)
            raise Unavailable(
                f"the kernel did not remove the export of volume {volume_id}; the log says why",
                volume_id=volume_id,
            ) from error
        failpoint("export-removed")
        self._state.remove_export(volume_id)
        self._catalog.drop_export(volume_id)
        self._catalog.clear_degraded(volume_id)
