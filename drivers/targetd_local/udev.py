"""Waiting for devices: udev's events say when to look again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import pyudev

Found = TypeVar("Found")

# An event can be lost, so it is looked at without one too.
LOOK_SECONDS = 0.5


class Udev:
    def __init__(self) -> None:
        self._context = pyudev.Context()

    def wait(
        self, look: Callable[[], Found | None], seconds: float, check: Callable[[], None]
    ) -> Found | None:
        """What ``look`` finds in that time, or None. ``check`` may raise meanwhile."""
        monitor = pyudev.Monitor.from_netlink(self._context)
        monitor.filter_by("block")
        monitor.start()
        end = time.monotonic() + seconds
        while True:
            check()
            found = look()
            left = end - time.monotonic()
            if found is not None or left <= 0:
                return found
            monitor.poll(min(left, LOOK_SECONDS))

    def is_ready(self, name: str) -> bool:
        """Whether udev has finished with the block device, so that its node and links are there."""
        device = self._device(name)
        if device is None or not device.is_initialized:
            return False
        # A device-mapper device has its table, and with it its names, later than its node.
        return not name.startswith("dm-") or any(map(_is_mapper, device.device_links))

    def is_claimed(self, disk: str) -> bool:
        """Whether udev was told that the disk is multipathd's to use."""
        device = self._device(disk)
        return device is not None and device.properties.get("DM_MULTIPATH_DEVICE_PATH") == "1"

    def links(self, name: str) -> list[str]:
        """Other names of the device, below /dev."""
        device = self._device(name)
        return sorted(device.device_links) if device is not None else []

    def _device(self, name: str) -> pyudev.Device | None:
        with suppress(pyudev.DeviceNotFoundError):
            return pyudev.Devices.from_name(self._context, "block", name)
        return None


def _is_mapper(link: str) -> bool:
    return link.startswith("/dev/mapper/")
