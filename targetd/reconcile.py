"""At start: make LVM, the records and the kernel agree before anybody is served.

LVM decides which volumes exist, the records decide who has access, and the
kernel's tree follows. One object that cannot be put right is reported and
leaves the others alone; what is not ours is not touched.
"""

from __future__ import annotations

import logging

from targetd.catalog import Catalog
from targetd.engines.interface import EngineError, LioEngine, LvmEngine
from targetd.errors import NotFound, Unavailable
from targetd.exports import Exports
from targetd.operations import Wipes
from targetd.state import State
from targetd.validation import UUID
from targetd.volumes import Volumes

log = logging.getLogger(__name__)


def reconcile_all(
    catalog: Catalog,
    state: State,
    lvm: LvmEngine,
    lio: LioEngine,
    volumes: Volumes,
    exports: Exports,
    wipes: Wipes,
) -> None:
    _load(catalog, state, lvm)
    for volume_id in state.creating():
        log.info("volume %s: finishing a creation that was interrupted", volume_id)
        volumes.heal_creation(volume_id)
    for volume_id in list(catalog.exports):
        _reconcile_export(catalog, exports, volume_id)
    _remove_orphans(catalog, lio, exports)
    for retired in lvm.retired():
        log.info("wipe %s: starting again", retired.operation_id)
        wipes.begin(retired)
    log.info(
        "reconciled: %d volumes, %d exports, %d connections, %d degraded",
        len(catalog.volumes),
        len(catalog.exports),
        len(catalog.all_connections()),
        len(catalog.degraded),
    )


def _load(catalog: Catalog, state: State, lvm: LvmEngine) -> None:
    for volume in lvm.volumes():
        if UUID.fullmatch(volume.volume_id):
            catalog.volumes[volume.volume_id] = volume
    for export in state.exports():
        catalog.exports[export.volume_id] = export
    for connection in state.connections():
        catalog.put_connection(connection)


def _reconcile_export(catalog: Catalog, exports: Exports, volume_id: str) -> None:
    try:
        exports.reconcile(volume_id)
    except (NotFound, Unavailable) as error:
        log.error("export of %s is degraded: %s", volume_id, error)
        catalog.degraded[volume_id] = error.message


def _remove_orphans(catalog: Catalog, lio: LioEngine, exports: Exports) -> None:
    """Targets and backstores of ours that no record explains: nobody was told of them."""
    for iqn in lio.targets():
        volume_id = iqn.rpartition(":")[2]
        if exports.iqn(volume_id) != iqn or not UUID.fullmatch(volume_id):
            continue
        if volume_id in catalog.exports:
            continue
        log.warning("target %s has no record; removing it", iqn)
        try:
            lio.remove_target(iqn, volume_id)
        except EngineError as error:
            log.error("target %s stays: %s", iqn, error)
    for volume_id in lio.forget_stray_backstores(catalog.exports):
        log.warning("removed the backstore of %s, which had no export", volume_id)
