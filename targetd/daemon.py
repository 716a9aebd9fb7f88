"""The daemon: everything put together, started and stopped in order, changed while it runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from targetd import health, logs, metrics, metrics_collector, notify, watchdog
from targetd.adoption import Adoption
from targetd.catalog import Catalog
from targetd.changes import Changes
from targetd.config import Config, merge
from targetd.connections import Connections
from targetd.copies import Copies
from targetd.devices import Devices
from targetd.engines.interface import EngineError, LioEngine, LvmEngine
from targetd.errors import StartError
from targetd.exports import Exports
from targetd.health import Check, Health
from targetd.host import portals
from targetd.metrics_collector import HostCollector
from targetd.metrics_endpoint import Endpoint
from targetd.naming import Naming
from targetd.observations import Observations
from targetd.operations import Operations
from targetd.pins import Pins
from targetd.pools import Pools
from targetd.reconcile import EXPORT_SECONDS, Reconciler
from targetd.secretbox import SecretBox, load_key
from targetd.server.exports import ExportService
from targetd.server.host import HostService
from targetd.server.serve import SERVICES, VOLUME_SERVICE, Server
from targetd.server.volumes import VolumeService
from targetd.server.watch import Watching
from targetd.snapshots import Snapshots
from targetd.state import State
from targetd.volumes import Volumes
from targetd.wipes import Wipes
from targetd.workers import Deadline, VolumeWorkers

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 10.0
# A step of a wipe or a copy takes a fraction of a second, unless its device hangs.
OPERATION_GRACE_SECONDS = 5.0


class Daemon:
    """One storage host's daemon on the given engines, real or simulated."""

    def __init__(self, config: Config, lvm: LvmEngine, lio: LioEngine) -> None:
        self._config = config
        self._lvm = lvm
        self._lio = lio
        self.state = _open_state(config.state_directory)
        naming = Naming(config.iqn_prefix, portals(config), config.chap_per_export)
        self.changes = Changes()
        self.catalog = Catalog(self.changes)
        self.workers = VolumeWorkers()
        self.pools = Pools(config.pools, lvm)
        self.operations = Operations(self.state, self.changes, config.throttle_bytes_per_second)
        self.observations = Observations(self.catalog, self.changes, lio, naming)
        wipes, pins = Wipes(lvm, self.operations, config.pools), Pins()
        copies = Copies(self.catalog, lvm, self.operations, wipes, pins)
        self.volumes = Volumes(
            self.catalog, self.pools, lvm, self.state, self.workers, wipes, copies, pins
        )
        self.snapshots = Snapshots(
            self.catalog, self.pools, lvm, self.state, self.workers, wipes, copies, pins
        )
        self.adoption = Adoption(self.catalog, lvm, self.workers, self.volumes, pins)
        self.exports = Exports(self.catalog, lvm, lio, self.state, self.workers, naming)
        self.connections = Connections(
            self.catalog, lio, self.state, self.workers, naming, self.observations
        )
        self.reconciler = Reconciler(
            self.catalog,
            self.state,
            lvm,
            lio,
            self.workers,
            naming,
            self.operations,
            wipes,
            copies,
            self.volumes,
            self.snapshots,
            self.exports,
            self.connections,
        )
        self._devices = Devices(self.catalog, self._put_right)
        self._watching = Watching(
            self.catalog, self.changes, self.observations, self.operations, naming
        )
        self._naming = naming
        self._wipes = wipes
        self._server = Server(config)
        # To itself: what the watchdog proves includes the way in.
        self._channel = grpc.insecure_channel(f"unix:{config.socket}")
        self._watchdog = watchdog.Watchdog(
            watchdog.proofs(self._channel, self.workers, self.state, self._threads), self.status
        )
        # What else an operator should know of the configuration.
        self.note = ""
        self.health = self._health()
        self.metrics = self._registry()
        self._endpoint = Endpoint(*config.metrics, self.metrics) if config.metrics else None

    def _threads(self) -> Mapping[str, bool]:
        return {
            "observations": self.observations.alive(),
            "periodic reconcile": self.reconciler.periodic_alive(),
            "devices": self._devices.alive(),
        }

    def _health(self) -> Health:
        records = Check("the state", self.state.check_writable, health.STATE_SECONDS)
        lvm = Check("LVM", self.pools.fresh, health.LVM_SECONDS)
        # Attachments need no LVM.
        needs = {service: (records,) for service in ("", *SERVICES)}
        return Health({**needs, VOLUME_SERVICE: (records, lvm)}, self._server.set_serving)

    def _registry(self) -> CollectorRegistry:
        collector = HostCollector(
            self.catalog,
            self.changes,
            self.observations,
            self.operations,
            self.pools,
            self.workers,
            self.health,
            # Of the newest configuration.
            lambda: self._config.reconcile_seconds,
        )
        return metrics.registry(metrics_collector.process, collector)

    @property
    def port(self) -> int:
        """Of gRPC over TCP, also where the configuration leaves it to the kernel."""
        return self._server.port

    def _put_right(self, volume_id: str) -> None:
        self.reconciler.run_one(volume_id, Deadline(EXPORT_SECONDS))

    def start(self, progress: Callable[[str], None] = lambda text: None) -> None:
        """Check the host, listen, reconcile, then serve. Raises StartError with the cure."""
        try:
            progress("checking the storage host")
            self._lvm.start()
            self._lio.start()
            self._server.add(
                VolumeService(
                    self.catalog, self.volumes, self.snapshots, self.adoption, self.pools
                ),
                ExportService(
                    self.catalog,
                    self.exports,
                    self.connections,
                    self.observations,
                    self._naming,
                ),
                HostService(
                    self._config.pools,
                    self._naming,
                    self.state.lock_domain_id(),
                    self.operations,
                    self.reconciler,
                    self._watching,
                ),
            )
            self._server.start()
            self.reconciler.start(progress)
        except EngineError as error:
            raise StartError(f"the storage host is not usable: {error}") from error
        self.pools.renew()
        self.observations.start()
        self._devices.start()
        self.reconciler.start_periodic(self._config.reconcile_seconds)
        self._server.serving()
        self.health.start()
        if self._endpoint is not None:
            self._endpoint.start()
        self._watchdog.start(notify.watchdog_seconds())
        log.info("%s", self.status())

    def status(self) -> str:
        """What it does, in a line for people."""
        places = [str(self._config.socket), self._config.listen]
        serving = f"serving on {' and '.join(filter(None, places))}"
        return "; ".join(filter(None, (serving, self.note)))

    def configure(self, wanted: Config) -> list[str]:
        """Take over what can change in a daemon that runs; returns the keys that need a restart.

        Raises StartError, and changes nothing, where certificates cannot be read.
        """
        config, fixed = merge(self._config, wanted)
        self._server.reload(config)
        logs.set_level(config.log_level)
        self.operations.configure(config.throttle_bytes_per_second)
        self.reconciler.configure(config.reconcile_seconds)
        self._wipes.configure(config.pools)
        self.pools.configure(config.pools)
        self._config = config
        return fixed

    def stop(self) -> None:
        """End the calls that run; the kernel's exports stay as they are."""
        self._watchdog.stop()
        if self._endpoint is not None:
            self._endpoint.stop()
        self.health.stop()
        self._channel.close()
        self._watching.stop()
        self._server.stop(STOP_GRACE_SECONDS)
        self._devices.stop()
        self.observations.stop()
        self.reconciler.stop()
        self.workers.wait_until_idle(STOP_GRACE_SECONDS)
        # After the calls, which begin operations.
        self.operations.stop(OPERATION_GRACE_SECONDS)
        self.state.close()


def _open_state(directory: Path) -> State:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "state.sqlite"
        # Only a first start makes a key: with state but no key the secrets are lost,
        # which somebody must be told.
        key = load_key(directory / "host.key", create=not path.exists())
        os.umask(0o077)
        return State(path, SecretBox(key))
    except OSError as error:
        raise StartError(f"the state directory {directory} cannot be used: {error}") from error
