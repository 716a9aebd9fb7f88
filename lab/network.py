"""The lab's own network: a namespace, a bridge in it, and a tap for each node's port."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from lab.errors import CommandFailed

GATEWAY_HOST = 1
FIRST_NODE_HOST = 11
# States of a bridge port (linux/if_bridge.h).
DISABLED, FORWARDING = "0", "3"


class Network:
    """Bridges 10.77.0.0/24, 10.78.0.0/24, ... in a namespace of their own."""

    def __init__(self, name: str, bridges: int = 2) -> None:
        self.namespace = name
        self._bridges = bridges

    def create(self) -> None:
        _run("ip", "netns", "add", self.namespace)
        self._ip("link", "set", "lo", "up")
        for number in range(self._bridges):
            self._ip("link", "add", f"br{number}", "type", "bridge", "forward_delay", "0")
            self._ip("address", "add", f"{address(number, GATEWAY_HOST)}/24", "dev", f"br{number}")
            self._ip("link", "set", f"br{number}", "up")

    def add_port(self, tap: str, bridge: int) -> None:
        self._ip("tuntap", "add", "dev", tap, "mode", "tap")
        self._ip("link", "set", tap, "master", f"br{bridge}", "up")

    def cut(self, tap: str) -> None:
        """Stop the traffic of one port. The tap stays up: a node's device would
        not recover from its tap going down."""
        self._set_port(tap, DISABLED)

    def restore(self, tap: str) -> None:
        self._set_port(tap, FORWARDING)

    def _set_port(self, tap: str, state: str) -> None:
        _run(*self.wrap(["bridge", "link", "set", "dev", tap, "state", state]))

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` of this machine on the lab's network."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def remove(self) -> None:
        _run("ip", "netns", "delete", self.namespace)

    def _ip(self, *arguments: str) -> None:
        _run("ip", "-n", self.namespace, *arguments)


def address(bridge: int, host: int) -> str:
    return f"10.{77 + bridge}.0.{host}"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandFailed(list(argv), done.returncode, done.stderr)
