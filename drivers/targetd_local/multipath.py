"""multipathd: one device over all paths to a disk."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress

from targetd_local.errors import NotPossible, ProgramFailed
from targetd_local.kernel import Kernel
from targetd_local.programs import Programs

# udev may still be looking at a device that is to go.
FLUSH_ATTEMPTS = 5
FLUSH_PAUSE_SECONDS = 1.0
# The disks that multipathd takes as they come, one on a line, between slashes.
WWIDS = "etc/multipath/wwids"


FIND_MULTIPATHS = re.compile(r'^\s*find_multipaths\s+"?(\w+)', re.MULTILINE)
# Of its values. With the first two udev is not told of it (multipath.conf(5)).
GREEDY = frozenset({"no", "off", "greedy"})


class Multipath:
    def __init__(self, programs: Programs, kernel: Kernel) -> None:
        self._programs = programs
        self._kernel = kernel

    def require(self) -> None:
        """Raises NotPossible when multipathd does not run."""
        try:
            done = self._programs.run(["multipathd", "show", "status"])
        except ProgramFailed:
            done = None
        # Old ones end with 0 all the same.
        if done is None or done.stdout.startswith("error"):
            raise NotPossible("multipathd does not run; systemctl start multipathd")

    def takes_every_disk(self) -> bool:
        """Whether multipathd makes a device of every disk that comes, also of a single path."""
        try:
            done = self._programs.run(["multipathd", "show", "config"])
        except (NotPossible, ProgramFailed):
            return False
        found = FIND_MULTIPATHS.search(done.stdout)
        return found is not None and found[1] in GREEDY

    def take(self, disks: Sequence[str], wwid: str) -> None:
        """Have multipathd make a device of them, even of a single one."""
        # Otherwise it may wait for a second path, or for ever (find_multipaths).
        self._programs.run(["multipath", "-a", wwid], (0, 1))
        for disk in disks:
            self._programs.run(["multipathd", "add", "path", disk], (0, 1))

    def flush(self, device: str) -> None:
        """Write out what is not yet written, and remove the device; its paths stay.

        Raises ProgramFailed.
        """
        argv = ["multipath", "-f", self._kernel.dm_name(device)]
        for _ in range(FLUSH_ATTEMPTS - 1):
            with suppress(ProgramFailed):
                self._programs.run(argv)
            if not self._kernel.exists(device):
                return
            time.sleep(FLUSH_PAUSE_SECONDS)
        self._programs.run(argv)

    def forget(self, wwid: str) -> None:
        """Let multipathd not know the disk again, should it come back."""
        try:
            known = (self._kernel.root / WWIDS).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return
        if f"/{wwid}/" in known:
            self._programs.run(["multipath", "-w", wwid], (0, 1))
