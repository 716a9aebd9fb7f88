"""A node's process: a Linux kernel in name spaces of its own, and its ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

KILLED_SECONDS_MAX = 10.0
ENCLOSE = Path(__file__).resolve().parent / "enclose.sh"


class Power:
    """The process tree of one boot: unshare, process 1 of its namespace, the kernel."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._process = process
        self.line = line

    @property
    def on(self) -> bool:
        return self._process.poll() is None

    def cut(self) -> None:
        """End everything at once; returns when the last of it is gone, so that
        the disks and the tap are free."""
        if self.on:
            for pid in _children(self._process.pid) or [self._process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        try:
            self._process.wait(KILLED_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait_off(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.on

    def signal_kernel(self, number: int) -> None:
        """Only the kernel itself: stopped, it lets none of its processes go on."""
        for first in _children(self._process.pid):
            for kernel in _children(first):
                os.kill(kernel, number)


def switch_on(
    kernel: Sequence[str],
    *,
    network: Sequence[str],
    processor: int,
    memory_folder: Path,
    writable: Sequence[Path],
    console: Path,
) -> Power:
    """Start a kernel on a serial line of its own. ``network`` is the command prefix
    that enters the lab's network. The caller's thread must live as long as the lab."""
    ours, theirs = socket.socketpair()
    with theirs, console.open("ab") as log:
        process = subprocess.Popen(
            [
                # A killed harness takes its nodes with it.
                *("setpriv", "--pdeathsig", "KILL"),
                *network,
                # Only the end of a process namespace ends all that the kernel forked.
                *(
                    "unshare",
                    "--mount",
                    "--pid",
                    "--mount-proc",
                    "--fork",
                    "--kill-child=KILL",
                ),
                *(str(ENCLOSE), *map(str, writable), str(memory_folder), "--"),
                # One processor for each node: on several, its processes wait for each other.
                *("taskset", "--cpu-list", str(processor)),
                *kernel,
                f"ssl0=fd:{theirs.fileno()}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(memory_folder)},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return Power(process, ours)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]
