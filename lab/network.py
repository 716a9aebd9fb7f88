"""The lab's own network: a namespace, a bridge in it, and a tap for each node's port."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import program
from lab.errors import LabError

NAMESPACES = Path("/run/netns")
GATEWAY_HOST = 1
FIRST_NODE_HOST = 11
CLONE_NEWNET = 0x40000000
# Bridge port states, as `bridge link` takes them.
DISABLED, FORWARDING = "0", "3"
# A neighbour that nobody has; it stays, whatever the one who was meant says.
NOBODY = "lladdr 02:00:00:00:00:ff nud permanent"


class Network:
    """Bridges 10.77.0.0/24 and fd77::/64, 10.78.0.0/24 and fd78::/64, ... in a namespace."""

    def __init__(self, name: str, bridges: int = 1) -> None:
        self.namespace = name
        self._bridges = bridges

    @property
    def exists(self) -> bool:
        return (NAMESPACES / self.namespace).exists()

    def create(self) -> None:
        program.run(["ip", "netns", "add", self.namespace])
        lines = ["link set lo up"]
        for number in range(self._bridges):
            bridge = f"br{number}"
            lines += [
                f"link add {bridge} type bridge forward_delay 0",
                f"address add {address(number, GATEWAY_HOST)}/24 dev {bridge}",
                f"address add {address6(number, GATEWAY_HOST)}/64 dev {bridge} nodad",
                f"link set {bridge} up",
            ]
        self._ip(lines)

    def add_port(self, tap: str, bridge: int) -> None:
        self._ip([f"tuntap add dev {tap} mode tap", f"link set {tap} master br{bridge} up"])

    def cut(self, tap: str) -> None:
        """Stop the traffic of one port. The tap stays up: a node's device would
        not recover from its tap going down."""
        self._set_state(tap, DISABLED)

    def restore(self, tap: str) -> None:
        self._set_state(tap, FORWARDING)

    def lose(self, address: str) -> None:
        """What this machine sends to a node is lost without a word, and what the node sends comes.
        The nodes reach each other as before."""
        self._ip([f"neighbour replace {address} {NOBODY} dev br0"])

    def find(self, address: str) -> None:
        """Take back ``lose``."""
        self._ip([f"neighbour delete {address} dev br0"])

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` of this machine on the lab's network."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread's new sockets are on the lab's network inside this block.

        Other threads stay where they are, and threads started inside stay in.
        """
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            theirs = os.open(NAMESPACES / self.namespace, os.O_RDONLY)
            try:
                _set_namespace(theirs)
            finally:
                os.close(theirs)
            try:
                yield
            finally:
                _set_namespace(own)
        finally:
            os.close(own)

    def remove(self) -> None:
        # Another harness may have swept it away at the same time.
        done = program.run(["ip", "netns", "delete", self.namespace], check=False)
        if self.exists:
            raise LabError(f"removing the network {self.namespace}: {done.stderr.strip()}")

    def _set_state(self, tap: str, state: str) -> None:
        program.run(self.wrap(["bridge", "link", "set", "dev", tap, "state", state]))

    def _ip(self, lines: Sequence[str]) -> None:
        """Several changes by one process."""
        program.run(["ip", "-n", self.namespace, "-batch", "-"], stdin="\n".join(lines) + "\n")


def address(bridge: int, host: int) -> str:
    return f"10.{77 + bridge}.0.{host}"


def address6(bridge: int, host: int) -> str:
    return f"fd{77 + bridge}::{host}"


def _set_namespace(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise LabError(f"entering the lab's network: {os.strerror(ctypes.get_errno())}")
