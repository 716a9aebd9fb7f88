"""The portals of targets: an address and port that the kernel listens at once, for all of them.

It listens from the first target's portal to the last one's. While it stops to listen, it refuses
a new portal of the same place (EINVAL, and "kernel_bind() failed: -98" in its log: iscsit_get_np
in Linux passes over the listener that ends, which has its socket still). As removals may wait for
a login, new portals do not queue behind them, but are tried again until the listener has gone.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable

from targetd.engines import configfs

# Somebody else's program that listens there is refused as well, and does not go.
TRY_SECONDS = 2.0
PAUSE_SECONDS = 0.005


def add(tpg: str, portals: Iterable[str]) -> None:
    for portal in portals:
        try:
            configfs.mkdir(f"{tpg}/np/{portal}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _add_when_free(f"{tpg}/np/{portal}")


def _add_when_free(path: str) -> None:
    end = time.monotonic() + TRY_SECONDS
    while True:
        time.sleep(PAUSE_SECONDS)
        try:
            return configfs.mkdir(path)
        except OSError as error:
            if error.errno != errno.EINVAL or time.monotonic() > end:
                raise


def remove(tpg: str, portals: Iterable[str]) -> None:
    for portal in portals:
        configfs.remove_folder(f"{tpg}/np/{portal}")
