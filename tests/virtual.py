"""Virtual machines as a storage host and hosts that attach."""

from __future__ import annotations

from lab.initiator import Initiator
from lab.virtual import ROOT, PackagedService, Site
from tests.hosts import INITIATORS, InstalledBacking

LATER_PACKAGE = ROOT / "build" / "vagrant" / "targetd-later.deb"


class VirtualBacking(InstalledBacking):
    """targetd as provisioning has installed it, and as the tests configure it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        storage = PackagedService(site["storage"])
        initiators = {name: Initiator(site[f"host-{name}"]) for name in INITIATORS}
        super().__init__(storage, initiators, "/root/later.deb")
        site.connect()
        site["storage"].send(LATER_PACKAGE, self.later)
        storage.configure()
        site.save()
        self._failed = 0

    def restore_after(self, failed: int) -> None:
        """``failed``: so many tests until now; nothing when they are those of the last time."""
        if failed != self._failed:
            self._failed = failed
            self.recover()

    def recover(self) -> None:
        """Disks, memory and connections as they were when this was made."""
        self._site.restore()
