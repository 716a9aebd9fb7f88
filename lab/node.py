"""One node: a Linux kernel as a process, with disks that outlive its power cuts."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from lab import power, program
from lab.agent import Agent, Process, Result
from lab.errors import BootFailed, CommandTimeout, NodeDown
from lab.network import FIRST_NODE_HOST, NOBODY, Network, address, address6
from lab.preconditions import KERNEL
from lab.relay import Relay
from lab.spec import Disk, Spec

__all__ = ["Disk", "Node", "Process", "Result", "Spec"]

GUEST = Path(__file__).resolve().parent / "guest"
# A boot takes 3 s, and a minute where the machine is busy.
BOOT_SECONDS_MAX = 120.0
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


@dataclass
class Node:
    """Made by Lab. ``boot_seconds`` is how long the last boot took until LIO,
    LVM and the network were ready."""

    spec: Spec
    number: int
    folder: Path
    memory_folder: Path
    network: Network
    cpu: int
    hosts: Mapping[str, int]
    # Starts processes from one thread that lives as long as the lab: a node dies
    # with the thread that started it, so that nothing outlives a killed harness.
    spawner: Executor
    boot_seconds: float = 0.0
    _power: power.Power | None = field(default=None, repr=False)
    _agent: Agent | None = field(default=None, repr=False)
    _disks: list[Path] = field(default_factory=list, repr=False)
    # A power cut by one thread is over before another thread boots the node.
    _switch: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        for folder in (self.share, self._disk_folder, self._image):
            folder.mkdir(parents=True, exist_ok=True)
        for bridge in range(self.spec.ports):
            self.network.add_port(self._tap(bridge), bridge)
        for disk in self.spec.all_disks:
            self._new_disk(disk)

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
        # Two dots at least before the colon: rtslib refuses other names.
        return f"iqn.2026-01.org.example.lab:{self.name}"

    @property
    def share(self) -> Path:
        """The node writes here, and sees it as /media; elsewhere on the machine only
        its own disks and memory are writable to it."""
        return self.folder / "share"

    @property
    def running(self) -> bool:
        return self._power is not None and self._power.on

    # Power

    def boot(self) -> None:
        """Start the node and wait until LIO, LVM and its network are ready.

        Raises BootFailed. After a power cut the disks are as they were.
        """
        started = time.monotonic()
        with self._switch:
            if self.running:
                return
            self._release()
            before = len(self.logs())
            self.spawner.submit(self._power_on).result()
        try:
            self._require_agent().wait_ready(BOOT_SECONDS_MAX)
        except (NodeDown, CommandTimeout) as error:
            self.power_cut()
            raise BootFailed(self.name, str(error), self.logs()[before:]) from error
        self.boot_seconds = time.monotonic() - started

    def _power_on(self) -> None:
        shutil.rmtree(self.memory_folder, ignore_errors=True)
        self.memory_folder.mkdir(parents=True)
        self._power = power.switch_on(
            self._command(),
            network=self.network.wrap([]),
            processor=self.cpu,
            memory_folder=self.memory_folder,
            writable=(self.share, self._disk_folder),
            console=self._console,
        )
        self._agent = Agent(self._power.line)

    def _command(self) -> list[str]:
        # What the kernel does not know it hands to the first program as environment.
        return [
            KERNEL,
            f"mem={self.spec.memory_mib}M",
            f"umid={self.name}",
            f"uml_dir={self.memory_folder}",
            f"init={GUEST}/stage1.sh",
            *KERNEL_ARGUMENTS,
            *(f"ubd{index}={disk}" for index, disk in enumerate(self._disks)),
            *(
                f"vec{bridge}:transport=hybrid,ifname={self._tap(bridge)},depth=128,gro=1,"
                f"mac=52:54:00:00:{bridge:02x}:{self.number + 1:02x}"
                for bridge in range(self.spec.ports)
            ),
            f"LAB_HOST={self.name}",
            f"LAB_GUEST={GUEST}",
            f"LAB_SHARE={self.share}",
            f"LAB_ADDRESSES={','.join(self._interfaces())}",
            f"LAB_HOSTS={','.join(self._host_lines())}",
            f"LAB_INITIATOR={self.initiator_name}",
            *(["LAB_SYSTEMD=1"] if self.spec.systemd else []),
        ]

    def _interfaces(self) -> list[str]:
        host = FIRST_NODE_HOST + self.number
        return [
            f"vec{bridge}={given}"
            for bridge in range(self.spec.ports)
            for given in (f"{address(bridge, host)}/24", f"{address6(bridge, host)}/64")
        ]

    def _host_lines(self) -> list[str]:
        return [
            f"{given}={name}"
            for name, host in self.hosts.items()
            for given in (address(0, host), address6(0, host))
        ]

    def power_cut(self) -> None:
        """End the node at once, as by pulling its plug. Its disks keep what was written."""
        with self._switch:
            if self._power is not None:
                self._power.cut()
            self._release()

    def power_off(self) -> None:
        """Sync and switch off; cut the power when that does not work in time."""
        if self.running and self._power is not None:
            off = ["systemctl", "poweroff"] if self.spec.systemd else ["busybox", "poweroff", "-f"]
            self.start(["sh", "-c", 'sync; exec "$@"', "off", *off])
            self._power.wait_off(STOP_SECONDS_MAX)
        self.power_cut()

    def reboot(self) -> None:
        self.power_off()
        self.boot()

    def _release(self) -> None:
        if self._agent is not None:
            self._agent.close()
        self._power = self._agent = None

    def freeze(self) -> None:
        """Stop the node as a hung machine stops; its clock jumps when it thaws."""
        self._require_power().signal_kernel(signal.SIGSTOP)

    def thaw(self) -> None:
        self._require_power().signal_kernel(signal.SIGCONT)

    # Commands

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
        """Run a program in the node to its end; for use by several threads.

        Raises CommandFailed when ``check`` and its status is not 0,
        CommandTimeout, and NodeDown.
        """
        return self._require_agent().run(
            argv,
            stdin=stdin,
            environment=environment or {},
            cwd=cwd,
            timeout_seconds=timeout_seconds,
            check=check,
        )

    def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str = "/",
        log: str = "",
    ) -> Process:
        """Start a program that goes on; its output goes to a file of the node."""
        return self._require_agent().start(argv, environment=environment or {}, cwd=cwd, log=log)

    def output(self, argv: Sequence[str]) -> str:
        """What a program prints, through a file: the line to the node is for short answers."""
        path = self.share / "output"
        self.run(["sh", "-c", '"$@" > /media/output', "output", *argv], check=False)
        return path.read_text(encoding="utf-8", errors="replace")

    def read(self, path: str) -> bytes:
        return self._require_agent().read(path)

    def write(self, path: str, content: str | bytes, mode: str = "644") -> None:
        """Put a file into the node; its content never stands on a command line."""
        data = content.encode() if isinstance(content, str) else content
        self._require_agent().write(path, data, int(mode, 8))

    def pack(self, path: str, content: str | bytes, mode: str = "644") -> None:
        """A file that the node has from its next boot on; ``unpack`` puts it there now."""
        packed = self._image / path.lstrip("/")
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.unlink(missing_ok=True)
        packed.touch(int(mode, 8))
        packed.write_bytes(content.encode() if isinstance(content, str) else content)
        packed.chmod(int(mode, 8))

    def unpack(self) -> None:
        self.run(["cp", "-r", "--preserve=mode", f"{self._image}/.", "/"])

    @property
    def _image(self) -> Path:
        # Where stage2.sh looks for it.
        return self.folder / "image"

    def _require_agent(self) -> Agent:
        if self._agent is None:
            raise NodeDown(f"node {self.name} is not running; boot it first")
        return self._agent

    def _require_power(self) -> power.Power:
        if self._power is None:
            raise NodeDown(f"node {self.name} is not running; boot it first")
        return self._power

    # Disks and network

    @property
    def _disk_folder(self) -> Path:
        return self.folder / "disks"

    def disk(self, name: str) -> Path:
        """The file behind a disk; what the node has written is in it at once."""
        return self._disk_folder / name

    def _new_disk(self, disk: Disk) -> Path:
        path = self.disk(disk.name)
        with path.open("xb") as file:
            file.truncate(disk.size_bytes)
        self._disks.append(path)
        return path

    def add_disk(self, size_bytes: int, name: str = "") -> str:
        """Add an empty disk, also while the node runs; returns its device in the node."""
        index = len(self._disks)
        path = self._new_disk(Disk(name or f"disk{index}", size_bytes))
        if self.running:
            monitor = self.memory_folder / self.name / "mconsole"
            # It listens on a name of the lab's network namespace; elsewhere this would hang.
            program.run(
                self.network.wrap(["uml_mconsole", str(monitor), "config", f"ubd{index}={path}"])
            )
            self.run(["udevadm", "settle"])
        return f"/dev/ubd{chr(ord('a') + index)}"

    def _tap(self, bridge: int) -> str:
        return f"tap{self.number}p{bridge}"

    def forward(self, port: int) -> Relay:
        """A way to one of its ports from this machine's loopback."""
        return Relay(self.network, self.address, port)

    def cut_network(self, port: int = 0) -> None:
        self.network.cut(self._tap(port))

    def restore_network(self, port: int = 0) -> None:
        self.network.restore(self._tap(port))

    def lose(self, address: str) -> None:
        """What the node sends to one address is lost without a word, and what that sends comes."""
        self.run(["ip", "neighbour", "replace", address, *NOBODY.split(), "dev", "vec0"])

    def find(self, address: str) -> None:
        """Take back ``lose``."""
        self.run(["ip", "neighbour", "delete", address, "dev", "vec0"])

    @property
    def _console(self) -> Path:
        return self.folder / "console.log"

    def logs(self) -> str:
        """What the node's kernel and its first programs printed, over all its boots."""
        path = self._console
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
