"""The portals of targets: one address and port that the kernel listens at, for all of them.

It listens from the first target's portal to the last one's, and while it stops, a new portal
of the same address is refused (EINVAL, "kernel_bind() failed: -98": iscsit_get_np in Linux
passes over the listener that ends, which has its socket still). So they come and go one by
one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from targetd.engines import configfs

# Of the kernel's list of listeners, which is one for all targets.
_CHANGE = threading.Lock()


def add(tpg: str, portals: Iterable[str]) -> None:
    with _CHANGE:
        for portal in portals:
            configfs.mkdir(f"{tpg}/np/{portal}")


def remove(tpg: str, portals: Iterable[str]) -> None:
    with _CHANGE:
        for portal in portals:
            configfs.remove_folder(f"{tpg}/np/{portal}")
