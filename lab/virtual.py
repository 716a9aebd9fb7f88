"""Virtual machines as nodes: made by `vagrant` or `vagrant/run-qemu`, reached by ssh.

One connection of ssh for each machine carries all of it: the same agent as in the lab's
own nodes, and the ports that are forwarded.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lab.agent import Agent, Process, Result
from lab.errors import BootFailed, CommandTimeout, LabError, NodeDown
from lab.node import GUEST
from lab.service import CONFIGURATION_PATH, TargetdService

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "vagrant"
# What makes the machines; both have the commands that are used here.
RUNNERS = {"vagrant": ["vagrant"], "qemu": [str(FOLDER / "run-qemu")]}
LIBVIRT = "qemu:///system"
RUNNER_SECONDS_MAX = 900.0
CONNECT_SECONDS_MAX = 120.0
# ssh has no terminal that would fill up.
WINDOW_BYTES = 1 << 20
# Everything on one interface, in both directions, as if its cable were out.
CUT = """\
table netdev cut-{interface} {{
    chain in {{ type filter hook ingress device {interface} priority 0; policy drop; }}
    chain out {{ type filter hook egress device {interface} priority 0; policy drop; }}
}}
"""
SNAPSHOT = "clean"
# A new one at each boot.
BOOT_ID = "/proc/sys/kernel/random/boot_id"
REBOOT_SECONDS_MAX = 600.0
ANSWER_SECONDS = 3.0


log = logging.getLogger(__name__)


class Runner:
    """``vagrant`` or ``run-qemu``; raises LabError with what it said."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._command = RUNNERS[name]

    def __call__(self, *arguments: str) -> str:
        return self._run([*self._command, *arguments])

    def cut_power(self, machine: str) -> None:
        """End a machine at once."""
        if self._libvirt:
            # Vagrant's libvirt provider asks the machine to go down, also with --force.
            self._virsh("destroy", machine)
        else:
            self("halt", "--force", machine)

    def power_on(self, machine: str) -> None:
        """It boots; whether it has is for who connects to it."""
        if self._libvirt:
            # Vagrant would look through its network and all else that it has made already.
            self._virsh("start", machine)
        else:
            self("up", "--no-provision", machine)

    @property
    def _libvirt(self) -> bool:
        return self._name == "vagrant" and os.environ.get("VAGRANT_DEFAULT_PROVIDER") == "libvirt"

    def _virsh(self, action: str, machine: str) -> None:
        # The prefix of domains is the Vagrantfile's.
        self._run(["virsh", "--connect", LIBVIRT, action, f"targetd_{machine}"])

    def _run(self, argv: Sequence[str]) -> str:
        log.info("    %s ...", shlex.join([Path(argv[0]).name, *argv[1:]]))
        try:
            done = subprocess.run(
                argv,
                cwd=FOLDER,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=RUNNER_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandTimeout(
                f"{shlex.join(argv)}: not done in {RUNNER_SECONDS_MAX:g} s"
            ) from None
        if done.returncode:
            said = done.stderr or done.stdout
            raise LabError(f"{shlex.join(argv)}: status {done.returncode}: {said.strip()}")
        return done.stdout


@dataclass
class Forward:
    """Over the machine's connection, and so there again after each boot."""

    port: int

    def close(self) -> None:
        """It goes with the connection."""


class Connection:
    """One ssh, with the agent at its other end. Raises NodeDown, CommandTimeout."""

    def __init__(self, name: str, config: Path, forwards: Mapping[int, int]) -> None:
        ours, theirs = socket.socketpair()
        source = (GUEST / "agent.py").read_bytes()
        argv = ["ssh", "-F", str(config), "-o", "ExitOnForwardFailure=yes"]
        # A machine that has gone without a word is noticed.
        argv += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"]
        for port, local in forwards.items():
            argv += ["-L", f"127.0.0.1:{local}:127.0.0.1:{port}"]
        # It comes first, and nothing else before it has said that it is ready.
        begin = f"import sys; exec(sys.stdin.buffer.read({len(source)}))"
        agent = shlex.join(["sudo", "-n", "/usr/bin/python3", "-c", begin, "-"])
        ours.sendall(source)
        with theirs:
            self._ssh = subprocess.Popen(
                [*argv, name, "--", agent],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for the tests, which then end it.
                start_new_session=True,
            )
        self.agent = Agent(ours, WINDOW_BYTES)
        try:
            self.agent.wait_ready(CONNECT_SECONDS_MAX)
        except (NodeDown, CommandTimeout):
            self.close()
            raise

    def close(self) -> None:
        self._ssh.kill()
        self._ssh.wait()
        self.agent.close()


class VirtualMachine:
    """One machine of the Vagrantfile, as what scenarios ask of a node (``lab.machine``)."""

    def __init__(
        self,
        name: str,
        addresses: list[str],
        runner: Runner,
        folder: Path,
        config: Path,
    ) -> None:
        self.name = name
        self.addresses = addresses
        self.folder = folder / name
        self.boot_seconds = 0.0
        self._runner = runner
        self._config = config
        self._forwards: dict[int, int] = {}
        self._connection: Connection | None = None
        # A power cut by one thread is over before another thread boots the machine.
        self._switch = threading.Lock()
        self.folder.mkdir(parents=True)

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def initiator_name(self) -> str:
        # As provision/initiator.sh has it.
        return f"iqn.2026-01.org.example.lab:{self.name}"

    @property
    def running(self) -> bool:
        return self._connection is not None

    # Its connection

    def connect(self) -> None:
        """Raises NodeDown and CommandTimeout when it cannot be reached."""
        self._connection = self._reached(CONNECT_SECONDS_MAX)
        self._prepare()

    def _prepare(self) -> None:
        # A boot may have set it wrong, and a snapshot has it from when it was made.
        self.run(["date", "--set", f"@{time.time():.3f}"])
        for program in GUEST.glob("*.py"):
            self.write(str(program), program.read_bytes())

    def _reached(self, seconds: float) -> Connection:
        end = time.monotonic() + seconds
        while True:
            # Its network, or its sshd, may still be on the way.
            while not self._answers() and time.monotonic() < end:
                time.sleep(0.5)
            try:
                return Connection(self.name, self._config, self._forwards)
            except NodeDown:
                if time.monotonic() > end:
                    raise
            time.sleep(1)

    def _answers(self) -> bool:
        """What forwards a port takes a connection before the machine has a network, and tries it
        again ever more seldom; so a new one is made often."""
        with suppress(OSError), socket.create_connection(self._place, ANSWER_SECONDS) as probe:
            return probe.recv(4) == b"SSH-"
        return False

    @cached_property
    def _place(self) -> tuple[str, int]:
        argv = ["ssh", "-G", "-F", str(self._config), self.name]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        given = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
        return given["hostname"], int(given["port"])

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def forward(self, port: int) -> Forward:
        if port not in self._forwards:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self._forwards[port] = probe.getsockname()[1]
            if self.running:
                self.disconnect()
                self.connect()
        return Forward(self._forwards[port])

    # Power

    def boot(self) -> None:
        started = time.monotonic()
        with self._switch:
            if self.running:
                return
            self._runner.power_on(self.name)
            try:
                self._connection = self._reached(REBOOT_SECONDS_MAX)
                self._prepare()
            except (NodeDown, CommandTimeout) as error:
                raise BootFailed(self.name, str(error), "") from error
        self.boot_seconds = time.monotonic() - started

    def power_cut(self) -> None:
        with self._switch:
            self._runner.cut_power(self.name)
            self.disconnect()

    def power_off(self) -> None:
        with self._switch:
            self.disconnect()
            self._runner("halt", self.name)

    def reboot(self) -> None:
        log.info("    rebooting %s ...", self.name)
        before = self.read(BOOT_ID)
        self.run(["systemctl", "reboot"])
        # For as long as it goes down.
        with suppress(NodeDown, CommandTimeout):
            self.run(["sleep", "infinity"], timeout_seconds=REBOOT_SECONDS_MAX)
        end = time.monotonic() + REBOOT_SECONDS_MAX
        while True:
            self.disconnect()
            # Until it is there again: no answer, or a refusal.
            with suppress(NodeDown, CommandTimeout):
                self.connect()
                if self.read(BOOT_ID) != before:
                    return
            if time.monotonic() > end:
                raise BootFailed(self.name, f"not back in {REBOOT_SECONDS_MAX:g} s", "")
            time.sleep(1)

    # Commands

    @property
    def _agent(self) -> Agent:
        if self._connection is None:
            raise NodeDown(f"machine {self.name} is not running; boot it first")
        return self._connection.agent

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
        return self._agent.run(
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
        return self._agent.start(argv, environment=environment or {}, cwd=cwd, log=log)

    def output(self, argv: Sequence[str]) -> str:
        return self.run(argv, check=False).stdout

    def read(self, path: str) -> bytes:
        return self._agent.read(path)

    def write(self, path: str, content: str | bytes, mode: str = "644") -> None:
        data = content.encode() if isinstance(content, str) else content
        self._agent.write(path, data, int(mode, 8))

    def send(self, file: Path, path: str) -> None:
        """A large file of this machine's."""
        argv = ["ssh", "-F", str(self._config), self.name, "--"]
        with file.open("rb") as content:
            done = subprocess.run(
                [*argv, shlex.join(["sudo", "-n", "tee", path])],
                stdin=content,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        if done.returncode:
            raise LabError(f"sending {file} to {self.name}: {done.stderr.decode().strip()}")

    def pack(self, path: str, content: str | bytes, mode: str = "644") -> None:
        """Its root is a disk: what is written now is there at each boot."""
        self.write(path, content, mode)

    def unpack(self) -> None:
        """Nothing is left to do."""

    # Its networks

    def cut_network(self, port: int = 0) -> None:
        self.run(["nft", "-f", "-"], stdin=CUT.format(interface=self._interface(port)).encode())

    def restore_network(self, port: int = 0) -> None:
        table = f"cut-{self._interface(port)}"
        # Not there after a boot, which restores the network too.
        self.run(["nft", "delete", "table", "netdev", table], check=False)

    def _interface(self, port: int) -> str:
        # 3: eth1    inet 192.168.232.11/24 ...; which name it has, is the box's.
        shown = self.run(["ip", "-oneline", "address", "show", "to", self.addresses[port]])
        return shown.stdout.split()[1]


class Site:
    """All machines of the Vagrantfile, up and provisioned; ``connect`` comes before their use."""

    def __init__(self, runner: str, folder: Path) -> None:
        self._runner = Runner(runner)
        self._folder = folder
        given = json.loads((FOLDER / "machines.json").read_text(encoding="utf-8"))
        config = folder / "ssh-config"
        config.touch(0o600)
        config.write_text(self._runner("ssh-config"), encoding="utf-8")
        self.machines = {
            name: VirtualMachine(
                name,
                [f"{network}.{definition['host']}" for network in given["networks"]],
                self._runner,
                folder,
                config,
            )
            for name, definition in given["machines"].items()
        }

    def connect(self) -> None:
        with ThreadPoolExecutor(len(self.machines)) as threads:
            list(threads.map(VirtualMachine.connect, self.machines.values()))

    def __getitem__(self, name: str) -> VirtualMachine:
        return self.machines[name]

    def save(self) -> None:
        """Disks and memory of all machines, for ``restore``. Their programs go on."""
        self._disconnected("snapshot", "save", SNAPSHOT)

    def restore(self) -> None:
        self._disconnected("snapshot", "restore", "--no-provision", SNAPSHOT)

    def _disconnected(self, *arguments: str) -> None:
        # A connection that is in the snapshot has no other end when it comes back.
        for machine in self.machines.values():
            machine.disconnect()
        self._runner(*arguments)
        self.connect()

    def close(self) -> None:
        for machine in self.machines.values():
            machine.disconnect()


class PackagedService(TargetdService):
    """targetd as provisioning has installed it, on disks that it has prepared."""

    def configure(self) -> None:
        """Let the tests in, and start it anew."""
        self.node.pack(CONFIGURATION_PATH, self.configuration)
        self.pack_certificates()
        self.stop()
        self.start()
