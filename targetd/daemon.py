"""The daemon: everything put together, started in order, stopped in order."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from pathlib import Path

from targetd.catalog import Catalog
from targetd.config import Config
from targetd.engines.interface import EngineError, LioEngine, LvmEngine
from targetd.errors import StartError
from targetd.exports import Exports
from targetd.host import portals
from targetd.operations import Wipes
from targetd.reconcile import reconcile_all
from targetd.secretbox import SecretBox, load_key
from targetd.server.exports import ExportService
from targetd.server.host import HostService
from targetd.server.serve import Server
from targetd.server.volumes import VolumeService
from targetd.state import State
from targetd.volumes import Pools, Volumes
from targetd.workers import VolumeWorkers

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 10.0


class Daemon:
    """One storage host's daemon on the given engines, real or simulated."""

    def __init__(self, config: Config, lvm: LvmEngine, lio: LioEngine) -> None:
        self._config = config
        self._lvm = lvm
        self._lio = lio
        self._workers = VolumeWorkers()
        self._wipes = Wipes(lvm)
        self._state = _open_state(config.state_directory)
        self._server = Server(config)

    def start(self) -> None:
        """Reconcile, then serve. Raises StartError with what to do about it."""
        config, catalog = self._config, Catalog()
        addresses = portals(config)
        try:
            self._lvm.start()
            self._lio.start()
            pools = Pools(config.pools, self._lvm)
            volumes = Volumes(catalog, pools, self._lvm, self._state, self._workers, self._wipes)
            exports = Exports(
                catalog,
                self._lvm,
                self._lio,
                self._state,
                self._workers,
                config.iqn_prefix,
                addresses,
            )
            reconcile_all(catalog, self._state, self._lvm, self._lio, volumes, exports, self._wipes)
        except EngineError as error:
            raise StartError(f"the storage host is not usable: {error}") from error
        self._server.add(
            VolumeService(catalog, volumes, pools),
            ExportService(catalog, exports),
            HostService(
                config.pools,
                addresses,
                config.iqn_prefix,
                self._state.lock_domain_id(),
                self._wipes,
            ),
        )
        self._server.start()
        self._server.serving()
        log.info("serving on %s", " and ".join(filter(None, [str(config.socket), config.listen])))

    def stop(self) -> None:
        """End the calls that run; the kernel's exports stay as they are."""
        self._server.stop(STOP_GRACE_SECONDS)
        self._workers.wait_until_idle(STOP_GRACE_SECONDS)
        self._wipes.stop()
        self._state.close()


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


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(message.encode(), address)


def run(daemon: Daemon) -> None:
    """Start, serve until SIGTERM or SIGINT, stop."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    daemon.start()
    notify("READY=1")
    stop.wait()
    log.info("stopping")
    notify("STOPPING=1")
    daemon.stop()
