"""What scenarios ask of a node, whether it is a process of this machine or a virtual machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from lab.agent import Process, Result


class Forward(Protocol):
    """A port of this machine's loopback that leads to one of the node; close it when done."""

    @property
    def port(self) -> int: ...

    def close(self) -> None: ...


class Machine(Protocol):
    """Its disks outlive its power cuts. Files below lab/guest have the same path in it as here."""

    # Of this machine, for what belongs to the node.
    folder: Path

    @property
    def name(self) -> str: ...

    @property
    def addresses(self) -> list[str]:
        """One on each of the networks that volumes are served on."""

    @property
    def address(self) -> str:
        """The first of them."""

    @property
    def initiator_name(self) -> str: ...

    @property
    def running(self) -> bool: ...

    @property
    def boot_seconds(self) -> float: ...

    def boot(self) -> None:
        """Start it, and wait until it can be used. Nothing when it runs. Raises LabError."""

    def power_cut(self) -> None:
        """End it at once, as by pulling its plug. Its disks keep what was written."""

    def power_off(self) -> None:
        """Switch it off as it should be."""

    def reboot(self) -> None:
        """Switch it off as it should be, and boot it again. Raises LabError."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        cwd: str = "/",
        timeout_seconds: float = 60.0,
        check: bool = True,
    ) -> Result:
        """Run a program in it to its end; for use by several threads.

        Raises CommandFailed when ``check`` and its status is not 0,
        CommandTimeout, and NodeDown.
        """

    def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str = "/",
        log: str = "",
    ) -> Process:
        """Start a program that goes on; its output goes to a file of the node."""

    def output(self, argv: Sequence[str]) -> str:
        """What a program prints, however much it is, and however it ends."""

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, content: str | bytes, mode: str = "644") -> None:
        """Put a small file into it; its content never stands on a command line."""

    def pack(self, path: str, content: str | bytes, mode: str = "644") -> None:
        """A file that it has from its next boot on; ``unpack`` puts it there now."""

    def unpack(self) -> None: ...

    def forward(self, port: int) -> Forward:
        """A way to a port of the node that is there again after each boot."""

    def cut_network(self, port: int = 0) -> None:
        """Nothing comes or goes on one of its networks, in the order of its addresses."""

    def restore_network(self, port: int = 0) -> None: ...
