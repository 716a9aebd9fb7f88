"""What systemd is told (sd_notify(3)); nothing happens where it does not listen."""

from __future__ import annotations

import os
import socket
import time

# How long a step of the start may take before systemd ends the daemon; above the
# time that the slowest LVM command is given.
EXTEND_SECONDS = 180
# Progress is told at most this often: an export takes some milliseconds.
PROGRESS_SECONDS = 0.5


def notify(*lines: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto("\n".join(lines).encode(), address)


def status(text: str) -> None:
    """What ``systemctl status`` shows."""
    notify(f"STATUS={text}")


def ready(text: str) -> None:
    notify("READY=1", f"STATUS={text}")


def reloading() -> None:
    # Newer versions of systemd want to know when.
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    notify("STOPPING=1", "STATUS=stopping; exports stay as they are")


def watchdog_seconds() -> float:
    """How often systemd wants to hear that all is well; 0 is never."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6


class Progress:
    """Tells how far the start has come, and asks for the time that it takes.

    Time is asked for only when something has got done: a start that hangs is
    ended by systemd.
    """

    def __init__(self) -> None:
        self._told = float("-inf")

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            notify(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}", f"STATUS={text}")
