"""The node under measure: its disks, and programs in it that are followed line by line."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.bench.inside.report import END, ROW
from lab.bench.inside.serve import CERTIFICATES
from lab.bench.rows import Row
from lab.errors import LabError
from lab.node import Node, Process, Spec
from targetd.roles import Role
from targetd.tls_authority import Authority

ROOT = Path(__file__).resolve().parents[2]
GIBIBYTE = 1 << 30
# In the order of the disks: the many devices, the daemon's state, a volume group.
STATE_DISK, GROUP_DISK = "/dev/ubdb", "/dev/ubdc"
# Below this name the state's file system is mounted.
FOLDER = Path("/var/lib/bench")
POLL_SECONDS = 0.2
# Asking the node costs its processor a little, so it is seldom asked.
ALIVE_SECONDS = 15.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def spec() -> Spec:
    return Spec(
        "storage",
        disks_bytes=(16 * GIBIBYTE, 2 * GIBIBYTE, 2 * GIBIBYTE),
        memory_mib=3072,
    )


class Program:
    """A program that runs in the node; its output is a file that both sides see."""

    def __init__(self, process: Process, log: Path, say: Callable[[str], None]) -> None:
        self._process = process
        self._log = log
        self._say = say
        self._lines = self._read()

    def _read(self) -> Iterator[str]:
        """Its output as it comes. Raises LabError when it did not end well."""
        asked = time.monotonic()
        rest = ""
        with self._log.open(encoding="utf-8", errors="replace") as file:
            while True:
                rest += file.read()
                *whole, rest = rest.split("\n")
                for line in whole:
                    if line.startswith(END):
                        return self._check(int(line.removeprefix(END)))
                    yield line
                if time.monotonic() - asked > ALIVE_SECONDS:
                    asked = time.monotonic()
                    status = self._process.poll()
                    if status is not None and not file.read():
                        return self._check(status)
                time.sleep(POLL_SECONDS)

    def _check(self, status: int) -> None:
        if status:
            raise LabError(f"{self._log.stem} failed in the node; what it said stands above")

    def rows(self, until: str = "") -> Iterator[Row]:
        """The rows of its output, the rest being said, to its end or that line."""
        for line in self._lines:
            if line.startswith(ROW):
                yield Row(**json.loads(line.removeprefix(ROW)))
            elif until and line == until:
                return
            elif line:
                self._say(line)

    def terminate(self) -> None:
        self._process.kill()


class Storage:
    def __init__(self, node: Node, say: Callable[[str], None]) -> None:
        self.node = node
        self._say = say
        self._authority = Authority.new("targetd lab")
        self._started = 0

    def format(self) -> None:
        """Once for the life of the disks."""
        self.node.run(["mkfs.ext4", "-q", STATE_DISK])
        self.mount()

    def mount(self) -> None:
        self.node.run(["mkdir", "-p", str(FOLDER)])
        self.node.run(["mount", STATE_DISK, str(FOLDER)])

    def reboot(self, devices: int) -> None:
        """A power cut, and everything but exports there again."""
        self._say("rebooting the node")
        self.node.run(["sync"])
        self.node.power_cut()
        self.node.boot()
        self.mount()
        self.make_devices(devices)

    def make_devices(self, count: int) -> None:
        self._say(f"making {count} devices")
        self.node.run(
            [sys.executable, "-m", "lab.bench.inside.population", str(count)],
            cwd=str(ROOT),
            environment=environment(),
            timeout_seconds=300,
        )

    def start(self, module: str, arguments: Sequence[str]) -> Program:
        self._started += 1
        name = f"{self._started}-{module}.log"
        log = self.node.share / name
        log.touch()
        process = self.node.start(
            [sys.executable, "-m", f"lab.bench.inside.{module}", *arguments],
            cwd=str(ROOT),
            environment=environment(),
            log=f"/media/{name}",
        )
        return Program(process, log, self._say)

    def give_certificates(self, folder: Path) -> None:
        """The server's to the node, a client's to ``folder``."""
        node = self.node
        folder.mkdir(exist_ok=True)
        certificate, key = self._authority.server(node.name, (node.address,))
        node.write(f"{CERTIFICATES}/server.pem", certificate)
        node.write(f"{CERTIFICATES}/server.key", key, mode="600")
        node.write(f"{CERTIFICATES}/ca.pem", self._authority.certificate)
        certificate, key = self._authority.client("client", Role.ADMIN)
        (folder / "client.pem").write_bytes(certificate)
        (folder / "client.key").write_bytes(key)
        (folder / "ca.pem").write_bytes(self._authority.certificate)


def environment() -> dict[str, str]:
    return {"PATH": PATH, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "drivers")))}
