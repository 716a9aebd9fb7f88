"""One node: a Linux kernel as a process, with disks that outlive its power cuts."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from lab.agent import Agent, Result
from lab.errors import LabError
from lab.network import FIRST_NODE_HOST, Network, address
from lab.preconditions import KERNEL

HERE = Path(__file__).resolve().parent
BOOT_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 15.0
KERNEL_ARGUMENTS = (
    "root=/dev/root",
    "rootfstype=hostfs",
    "rootflags=/",
    "ro",
    "con=null",
    "con0=null,fd:1",
    "quiet",
    # 512 legacy terminals would cost udev 2 s at every boot.
    "pty.legacy_count=0",
    # The loop calibration and the RAID benchmarks cost another second.
    "lpj=27860992",
    "initcall_blacklist=raid6_select_algo,calibrate_xor_blocks",
)


@dataclass(frozen=True)
class Spec:
    """What a node is made of."""

    name: str
    disks_bytes: tuple[int, ...] = ()
    memory_mib: int = 256
    systemd: bool = False
    # Ports on the lab's networks: 2 gives two paths to the node.
    ports: int = 1


@dataclass
class Node:
    spec: Spec
    number: int
    folder: Path
    memory_folder: Path
    network: Network
    cpu: int
    hosts: Mapping[str, str]
    # Starts processes from one thread that lives as long as the lab: a node dies
    # with the thread that started it, so that nothing outlives a killed harness.
    spawner: Executor
    boot_seconds: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _agent: Agent | None = field(default=None, repr=False)
    _disks: list[Path] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.share.mkdir(parents=True, exist_ok=True)
        for bridge in range(self.spec.ports):
            self.network.add_port(self._tap(bridge), bridge)
        for size_bytes in self.spec.disks_bytes:
            self._new_disk(size_bytes)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def addresses(self) -> list[str]:
        return [address(bridge, FIRST_NODE_HOST + self.number) for bridge in range(self.spec.ports)]

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def initiator_name(self) -> str:
        return f"iqn.2026-01.org.example.lab:{self.name}"

    @property
    def share(self) -> Path:
        """The node writes here and nowhere else on the machine; it sees it as /media."""
        return self.folder / "share"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _tap(self, bridge: int) -> str:
        return f"tap{self.number}p{bridge}"

    # Power

    def boot(self) -> None:
        """Start the node and wait until LIO, LVM and its network are ready."""
        started = time.monotonic()
        self.spawner.submit(self.power_on).result()
        self.wait_ready()
        self.boot_seconds = time.monotonic() - started

    def power_on(self) -> None:
        if self.running:
            raise LabError(f"node {self.name} is running already")
        shutil.rmtree(self.memory_folder, ignore_errors=True)
        self.memory_folder.mkdir(parents=True)
        ours, theirs = socket.socketpair()
        with theirs, self._console().open("ab") as console:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(self.memory_folder)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._agent = Agent(ours)

    def _command(self, line: int) -> list[str]:
        kernel = [
            KERNEL,
            f"mem={self.spec.memory_mib}M",
            f"umid={self.name}",
            f"uml_dir={self.memory_folder}",
            f"init={HERE}/guest/stage1.sh",
            f"ssl0=fd:{line}",
            *KERNEL_ARGUMENTS,
            *(f"ubd{index}={disk}" for index, disk in enumerate(self._disks)),
            *(
                f"vec{bridge}:transport=hybrid,ifname={self._tap(bridge)},depth=128,gro=1,"
                f"mac=52:54:00:00:{bridge:02x}:{self.number + 1:02x}"
                for bridge in range(self.spec.ports)
            ),
            f"LAB_HOST={self.name}",
            f"LAB_GUEST={HERE}/guest",
            f"LAB_SHARE={self.share}",
            f"LAB_ADDRESSES={','.join(self.addresses)}",
            f"LAB_HOSTS={','.join(f'{ip}={name}' for name, ip in self.hosts.items())}",
            f"LAB_INITIATOR={self.initiator_name}",
            *(["LAB_SYSTEMD=1"] if self.spec.systemd else []),
        ]
        # One processor for each node: on several, its processes wait for each other.
        pinned = ["taskset", "--cpu-list", str(self.cpu), *kernel]
        enclosed = [str(HERE / "enclose.sh"), str(self.folder), str(self.memory_folder), "--"]
        return [
            *("setpriv", "--pdeathsig", "KILL"),
            *self.network.wrap(["unshare", "--mount", *enclosed, *pinned]),
        ]

    def wait_ready(self) -> None:
        self._require_agent().wait_ready(BOOT_SECONDS_MAX)

    def power_cut(self) -> None:
        """End the node at once, as by pulling its plug. Its disks keep what was written."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._agent is not None:
            self._agent.close()
        self._process = self._agent = None

    def power_off(self) -> None:
        """Sync and switch off."""
        if not self.running or self._process is None:
            return
        self.run(["sync"])
        self._require_agent().start(["busybox", "poweroff", "-f"], {}, "/dev/null")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS_MAX)
        self.power_cut()

    # Commands

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = 60.0,
        check: bool = True,
    ) -> Result:
        """Run a program in the node to its end.

        Raises CommandFailed when ``check`` and its status is not 0,
        CommandTimeout, and LabError when the node is not running.
        """
        with self._stdin(stdin) as path:
            return self._require_agent().run(argv, path, environment or {}, timeout_seconds, check)

    @contextmanager
    def _stdin(self, content: bytes) -> Iterator[str]:
        """A file in the node with the content: the serial line stalls on long requests."""
        if not content:
            yield "/dev/null"
            return
        path = self.share / f"stdin-{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        try:
            yield f"/media/{path.name}"
        finally:
            path.unlink()

    def start(
        self, argv: Sequence[str], *, log: str, environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a program that goes on; returns its pid in the node."""
        return self._require_agent().start(argv, environment or {}, log)

    def wait(self, pid: int, timeout_seconds: float = 60.0) -> int:
        return self._require_agent().wait(pid, timeout_seconds)

    def write(self, path: str, content: str, mode: str = "644") -> None:
        """Put a file into the node; its content never stands on a command line."""
        self.run(["mkdir", "-p", str(Path(path).parent)])
        self.run(["install", "-m", mode, "/dev/stdin", path], stdin=content.encode())

    def _require_agent(self) -> Agent:
        if self._agent is None:
            raise LabError(f"node {self.name} is not running; boot it first")
        return self._agent

    # Disks and network

    def _new_disk(self, size_bytes: int) -> Path:
        path = self.folder / f"disk{len(self._disks)}"
        with path.open("wb") as disk:
            disk.truncate(size_bytes)
        self._disks.append(path)
        return path

    def add_disk(self, size_bytes: int) -> str:
        """Add an empty disk, also while the node runs; returns its device in the node."""
        path = self._new_disk(size_bytes)
        index = len(self._disks) - 1
        if self.running:
            socket_path = self.memory_folder / self.name / "mconsole"
            # The monitor listens on a name of the lab's network namespace.
            subprocess.run(
                self.network.wrap(
                    ["uml_mconsole", str(socket_path), "config", f"ubd{index}={path}"]
                ),
                check=True,
                capture_output=True,
                timeout=STOP_SECONDS_MAX,
            )
            self.run(["udevadm", "trigger", "--action=add", "--subsystem-match=block"])
            self.run(["udevadm", "settle"])
        return f"/dev/ubd{chr(ord('a') + index)}"

    def cut_network(self, port: int = 0) -> None:
        self.network.cut(self._tap(port))

    def restore_network(self, port: int = 0) -> None:
        self.network.restore(self._tap(port))

    def _console(self) -> Path:
        return self.folder / "console.log"

    def console(self) -> str:
        """What the node's kernel and its first programs printed, over all its boots."""
        path = self._console()
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
