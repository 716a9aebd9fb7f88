"""Making LVM, the records and the kernel agree: at start, on request, and from time to time.

LVM decides which volumes exist, the records decide who has access, and the
kernel's tree follows. One object that cannot be put right is reported and
leaves the others alone; what is not ours is not touched.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from targetd import flight, metrics
from targetd.catalog import Catalog
from targetd.connections import Connections
from targetd.context import about
from targetd.copies import Copies
from targetd.engines.interface import (
    NEW_TARGET,
    EngineError,
    Inventory,
    LioEngine,
    LvmEngine,
)
from targetd.errors import NotFound, TargetdError
from targetd.exports import Exports
from targetd.host import missing_listeners
from targetd.naming import Naming
from targetd.operations import Operations
from targetd.snapshots import Snapshots
from targetd.state import State
from targetd.sweep import sweep
from targetd.validation import UUID
from targetd.volumes import Volumes
from targetd.wipes import Wipes
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)

# What an export may take before it counts as one that hangs.
EXPORT_SECONDS = 10.0
# Between two exports of a periodic pass, so that it is never in anybody's way.
PAUSE_SECONDS = 0.05


@dataclass
class Report:
    """What one pass over exports found."""

    checked: int = 0
    # Volume id and what of it was not as it must be.
    drifts: list[tuple[str, str]] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)


class Reconciler:
    def __init__(
        self,
        catalog: Catalog,
        state: State,
        lvm: LvmEngine,
        lio: LioEngine,
        workers: VolumeWorkers,
        naming: Naming,
        operations: Operations,
        wipes: Wipes,
        copies: Copies,
        volumes: Volumes,
        snapshots: Snapshots,
        exports: Exports,
        connections: Connections,
    ) -> None:
        self._catalog = catalog
        self._state = state
        self._lvm = lvm
        self._lio = lio
        self._workers = workers
        self._naming = naming
        self._operations = operations
        self._wipes = wipes
        self._copies = copies
        self._volumes = volumes
        self._snapshots = snapshots
        self._exports = exports
        self._connections = connections
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._seconds = 0
        self._periodic = threading.Thread(target=self._look_after, name="periodic", daemon=True)

    # At start

    def start(self, progress: Callable[[str], None] = lambda text: None) -> None:
        """Bring everything into agreement before anybody is served. Raises EngineError.

        ``progress`` is told what has been come to, in a line for people.
        """
        progress("reading what LVM and the records hold")
        inventory = self._load()
        progress("finishing what was interrupted")
        self._heal(inventory)
        report = self.run(progress)
        progress("removing what no record explains")
        self._remove_orphans()
        self._go_on(inventory)
        log.info(
            "reconciled: %d volumes, %d exports, %d connections; %d things put right, %d degraded",
            len(self._catalog.volumes()),
            report.checked,
            len(self._catalog.all_connections()),
            len(report.drifts),
            len(report.degraded),
        )

    def _load(self) -> Inventory:
        inventory = self._lvm.inventory()
        for volume in inventory.volumes:
            self._catalog.put_volume(volume)
        for snapshot in inventory.snapshots:
            self._catalog.put_snapshot(snapshot)
        for export in self._state.exports():
            self._catalog.put_export(export)
        for connection in self._state.connections():
            self._catalog.put_connection(connection)
        self._operations.load()
        return inventory

    def _heal(self, inventory: Inventory) -> None:
        for place in inventory.strays:
            log.warning("%s: letting go of what was not wholly taken over", place)
            try:
                self._lvm.release_stray(place)
            except EngineError as error:
                log.error("%s keeps the tags of targetd: %s", place, error)
        for lv_name, create_time in self._state.creating().items():
            log.info("%s: finishing a creation that was interrupted", lv_name)
            kind, _, item_id = lv_name.partition("-")
            heal = self._volumes if kind == "volume" else self._snapshots
            heal.heal_creation(item_id, create_time)

    def _remove_orphans(self) -> None:
        """Targets and backstores of ours that no record explains: nobody was told of them."""
        for iqn in self._lio.targets():
            volume_id = iqn.rpartition(":")[2]
            ours = self._naming.iqn(volume_id) == iqn and UUID.fullmatch(volume_id)
            if not ours or self._catalog.find_export(volume_id) is not None:
                continue
            log.warning("target %s has no record; removing it", iqn)
            self._remove_orphan(iqn, volume_id)
        wanted = [export.volume_id for export in self._catalog.exports()]
        for volume_id in self._lio.forget_stray_backstores(wanted):
            log.warning("removed the backstore of %s, which had no export", volume_id)

    def _remove_orphan(self, iqn: str, volume_id: str) -> None:
        def work() -> None:
            self._lio.remove_target(iqn, volume_id)

        try:
            self._workers.run(volume_id, Deadline(EXPORT_SECONDS), work)
        except (EngineError, TargetdError) as error:
            log.error("target %s stays: %s", iqn, error)

    def _go_on(self, inventory: Inventory) -> None:
        """Take up the long work that the last daemon left."""
        for retired in inventory.retired:
            log.info("wipe %s: going on", retired.operation_id)
            self._wipes.begin(retired)
        for volume in self._catalog.volumes():
            if volume.copy_id:
                self._fill(volume.volume_id)
        self._copies.let_go_of_all_done()
        self._operations.end_unexplained()

    def _fill(self, volume_id: str) -> None:
        try:
            self._copies.begin(self._catalog.volume(volume_id))
        except NotFound as error:
            log.error("volume %s cannot be filled and must be deleted: %s", volume_id, error)

    # Any time

    def run_on_request(self) -> Report:
        """All that a periodic pass does, without its pauses."""
        self._look_after_the_rest()
        return self.run()

    def run(self, progress: Callable[[str], None] = lambda text: None) -> Report:
        """Compare every export with the kernel, and put it right."""
        with metrics.whole_reconcile():
            return self._run(progress)

    def _run(self, progress: Callable[[str], None]) -> Report:
        report = Report()
        volume_ids = [export.volume_id for export in self._catalog.exports()]
        numbers = itertools.count(1)

        def check(volume_id: str) -> Report:
            checked = self._checked_here(volume_id)
            progress(f"looked at {next(numbers)} of {len(volume_ids)} exports")
            return checked

        swept = sweep(volume_ids, check, EXPORT_SECONDS)
        for checked in swept.done:
            _add(report, checked)
        for volume_id in swept.undone:
            _add(
                report,
                self._degraded(volume_id, "it was not done in time, or failed"),
            )
        return report

    def _checked_here(self, volume_id: str) -> Report:
        """In the thread of the sweep, which keeps the time."""
        return self._checked(volume_id, Deadline(EXPORT_SECONDS, kept_by_caller=True))

    def run_one(self, volume_id: str, deadline: Deadline) -> Report:
        """The same for one export. Raises NotFound where it is not exported."""
        self._catalog.export(volume_id)
        return self._checked(volume_id, deadline)

    def _checked(self, volume_id: str, deadline: Deadline | None = None) -> Report:
        with about(volume_id=volume_id):
            return self._checked_once(volume_id, deadline or Deadline(EXPORT_SECONDS))

    def _checked_once(self, volume_id: str, deadline: Deadline) -> Report:
        try:
            differed = self._reconcile(volume_id, deadline)
        except NotFound as error:
            if self._catalog.find_export(volume_id) is None:
                # Removed since the pass began.
                return Report()
            return self._degraded(volume_id, error.message)
        except TargetdError as error:
            return self._degraded(volume_id, error.message)
        metrics.count_repairs(differed)
        return Report(1, [(volume_id, what) for what in differed])

    def _degraded(self, volume_id: str, reason: str) -> Report:
        log.error("the export of volume %s is degraded: %s", volume_id, reason)
        flight.log_failure(volume_id)
        self._catalog.set_degraded(volume_id, reason)
        return Report(1, degraded=[volume_id])

    def _reconcile(self, volume_id: str, deadline: Deadline) -> list[str]:
        def work() -> list[str]:
            self._catalog.export(volume_id)
            volume = self._catalog.volume(volume_id)
            self._connections.finish_interrupted(volume_id)
            differed = self._exports.ensure_target(volume)
            differed += self._connections.ensure_acls(volume_id, new=NEW_TARGET in differed)
            self._catalog.clear_degraded(volume_id)
            return differed

        return self._workers.run(volume_id, deadline, work)

    # From time to time

    def start_periodic(self, seconds: int) -> None:
        self._seconds = seconds
        self._periodic.start()

    def configure(self, seconds: int) -> None:
        """How often, from now on; 0 is never."""
        self._seconds = seconds
        self._changed.set()

    def periodic_alive(self) -> bool:
        return self._periodic.is_alive()

    def stop(self) -> None:
        self._stopping.set()
        self._changed.set()

    def _look_after(self) -> None:
        while not self._stopping.is_set():
            if self._changed.wait(self._seconds or None):
                # The time runs anew; a set event also says that the daemon stops.
                self._changed.clear()
                continue
            try:
                self._pass()
            # The outer loop of a worker: one bad pass must not end all passes.
            except Exception:
                log.exception("a periodic reconcile failed")

    def _pass(self) -> None:
        self._look_after_the_rest()
        for portal in missing_listeners(self._naming.portals, self._catalog.exports()):
            log.error("no socket listens on portal %s: initiators cannot log in there", portal)
        with metrics.whole_reconcile():
            self._check_all_slowly()

    def _check_all_slowly(self) -> None:
        for export in self._catalog.exports():
            if self._stopping.wait(PAUSE_SECONDS):
                return
            for volume_id, what in self._checked(export.volume_id).drifts:
                log.warning("volume %s: %s was not as it must be; put right", volume_id, what)

    def _look_after_the_rest(self) -> None:
        """What is not of one export."""
        self._operations.retry_failed()
        self._copies.let_go_of_all_done()
        try:
            self._refresh_snapshots()
        except EngineError as error:
            log.error("LVM does not report the snapshots: %s", error)

    def _refresh_snapshots(self) -> None:
        """Read again how full thick snapshots are, where there are any."""
        if not any(snapshot.reserved_bytes for snapshot in self._catalog.snapshots()):
            return
        for snapshot in self._lvm.inventory().snapshots:
            if not snapshot.for_copy:
                self._snapshots.refresh(snapshot)


def _add(report: Report, more: Report) -> None:
    report.checked += more.checked
    report.drifts += more.drifts
    report.degraded += more.degraded
