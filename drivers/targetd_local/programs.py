"""The one place that runs programs: argument lists, C locale, a limit of time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from targetd_local.errors import NotPossible, ProgramFailed

DEFAULT_SECONDS = 60.0
# Of a program that was told to end.
END_SECONDS = 5.0
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {
    "iscsiadm": "open-iscsi",
    "multipath": "multipath-tools",
    "multipathd": "multipath-tools",
}
LATE = -1


@dataclass(frozen=True)
class Done:
    status: int
    stdout: str
    stderr: str


class Programs:
    def run(
        self, argv: Sequence[str], ok: Collection[int] = (0,), seconds: float = DEFAULT_SECONDS
    ) -> Done:
        """Run a program to its end; ``ok`` are the statuses that are no failure.

        Raises ProgramFailed, and NotPossible when it is not installed.
        """
        shown = " ".join(argv)
        child = _start(argv)
        stdout, stderr = _output(child, shown, seconds)
        if child.returncode not in ok:
            said = (stderr or stdout).strip()
            raise ProgramFailed(f"{shown}: status {child.returncode}: {said}", child.returncode)
        return Done(child.returncode, stdout, stderr)

    def are_roots(self) -> bool:
        return os.geteuid() == 0


def _start(argv: Sequence[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={"PATH": PATH, "LC_ALL": "C"},
            # A Ctrl-C is for whoever waits: what half a login has done would have to be guessed.
            start_new_session=True,
        )
    except FileNotFoundError:
        package = PACKAGES.get(argv[0], argv[0])
        raise NotPossible(
            f"{argv[0]} is not installed; on Debian: apt-get install {package}"
        ) from None


def _output(child: subprocess.Popen[str], shown: str, seconds: float) -> tuple[str, str]:
    try:
        return child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
    try:
        child.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        # Waiting longer would hang this program too.
        raise ProgramFailed(f"{shown}: hangs in the kernel", LATE) from None
    raise ProgramFailed(f"{shown}: not done in {seconds:g} s", LATE)
