"""Device nodes of volumes that come, grow or vanish: udev says when to look.

An event is never taken for what it says, only as the reason to look at the
device itself: events get lost, and come late.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import replace

import pyudev

from targetd.catalog import Catalog
from targetd.engines import blocks
from targetd.errors import TargetdError
from targetd.model import Volume

log = logging.getLogger(__name__)

VOLUME = re.compile(r"volume-([0-9a-f-]{36})")
POLL_SECONDS = 1.0


class Devices:
    def __init__(self, catalog: Catalog, put_right: Callable[[str], object]) -> None:
        self._catalog = catalog
        # Called with the id of an exported volume whose device has come back.
        self._put_right = put_right
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, where udev runs; without it only the periodic reconcile looks."""
        try:
            monitor = pyudev.Monitor.from_netlink(pyudev.Context())
            monitor.filter_by("block", "disk")
            monitor.start()
        except (OSError, ImportError) as error:
            log.warning("udev cannot be listened to: %s", error)
            return
        self._thread = threading.Thread(
            target=self._listen, args=(monitor,), name="devices", daemon=True
        )
        self._thread.start()

    def alive(self) -> bool:
        """Also where there is nothing to listen to."""
        return self._thread is None or self._thread.is_alive()

    def stop(self) -> None:
        self._stopping.set()

    def _listen(self, monitor: pyudev.Monitor) -> None:
        while not self._stopping.is_set():
            device = monitor.poll(POLL_SECONDS)
            name = VOLUME.fullmatch(device.properties.get("DM_LV_NAME", "")) if device else None
            if name is None:
                continue
            try:
                self.look(name[1])
            # The outer loop of a worker: one odd device must not end all listening.
            except Exception:
                log.exception("a look at the device of volume %s failed", name[1])

    def look(self, volume_id: str) -> None:
        """See whether the volume's device is there, and how large it is."""
        volume = self._catalog.find_volume(volume_id)
        if volume is None:
            return
        try:
            size_bytes = blocks.size_bytes(volume.device_path)
        except FileNotFoundError:
            self._vanished(volume)
            return
        if size_bytes > volume.size_bytes:
            log.info("volume %s has grown to %d bytes", volume_id, size_bytes)
            self._catalog.put_volume(replace(volume, size_bytes=size_bytes))
        if self._catalog.is_degraded(volume_id):
            self._came_back(volume_id)

    def _vanished(self, volume: Volume) -> None:
        if self._catalog.find_export(volume.volume_id) is None:
            return
        log.error("volume %s: its device %s has vanished", volume.volume_id, volume.device_path)
        self._catalog.set_degraded(volume.volume_id, "its device has vanished")

    def _came_back(self, volume_id: str) -> None:
        try:
            self._put_right(volume_id)
        except TargetdError as error:
            log.warning("volume %s stays degraded: %s", volume_id, error.message)
        else:
            log.info("volume %s: its device is back", volume_id)
