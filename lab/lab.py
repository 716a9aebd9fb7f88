"""A lab: nodes on a network of their own, all gone when its block ends."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lab import preconditions, program
from lab.network import FIRST_NODE_HOST, NAMESPACES, Network
from lab.node import Node, Spec
from lab.processors import OwnProcessor, idle_first

PREFIX = "tlab"
PROGRESS_SECONDS = 2.0


class Lab:
    """``with Lab(folder, specs) as lab: lab["storage"].run([...])``

    All nodes are ready when the block begins. ``progress`` is told when that
    takes long. Raises PreconditionError when the machine lacks something, and
    BootFailed.
    """

    def __init__(
        self,
        folder: Path,
        specs: Sequence[Spec],
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._specs = tuple(specs)
        self._name = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        self._progress = progress
        self.folder = folder.resolve() / self._name
        self._memory = preconditions.MEMORY / self._name
        self.network = Network(self._name, max((spec.ports for spec in specs), default=1))
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="lab-spawner")
        self._previous: Any = None
        self.nodes: dict[str, Node] = {}
        self._own_processor: OwnProcessor | None = None

    def __enter__(self) -> Lab:
        preconditions.check(sum(spec.memory_mib for spec in self._specs))
        _sweep(self.folder.parent)
        self._take_sigterm()
        with ExitStack() as undo:
            undo.callback(self.close)
            self._build()
            self._boot()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def _build(self) -> None:
        self.folder.mkdir(parents=True)
        self._memory.mkdir()
        self.network.create()
        processors = self._processors()
        hosts = {spec.name: FIRST_NODE_HOST + number for number, spec in enumerate(self._specs)}
        for number, spec in enumerate(self._specs):
            self.nodes[spec.name] = Node(
                spec=spec,
                number=number,
                folder=self.folder / spec.name,
                memory_folder=self._memory / spec.name,
                network=self.network,
                cpu=processors[number % len(processors)],
                hosts=hosts,
                spawner=self._spawner,
            )

    def _processors(self) -> list[int]:
        """For one node after the other; the first has the most to do."""
        idle = idle_first()
        self._own_processor = OwnProcessor(idle)
        own = self._own_processor.number
        return [own, *(processor for processor in idle if processor != own)]

    def _boot(self) -> None:
        started = time.monotonic()
        with ThreadPoolExecutor(len(self.nodes) or 1) as threads:
            booting: dict[Future[None], str] = {
                threads.submit(node.boot): node.name for node in self.nodes.values()
            }
            while booting:
                done, left = wait(booting, PROGRESS_SECONDS, FIRST_COMPLETED)
                for future in done:
                    del booting[future]
                    future.result()
                if left and not done:
                    names = ", ".join(booting.values())
                    self._progress(f"booting for {time.monotonic() - started:.0f} s: {names}")

    def run_in_network(
        self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine, with its files, on the lab's network."""
        return program.run(self.network.wrap(argv), check=check, timeout_seconds=timeout_seconds)

    def popen_in_network(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """The same for a program that goes on; ``options`` are Popen's. The caller ends it."""
        return subprocess.Popen(self.network.wrap(argv), **options)

    def entered_network(self) -> AbstractContextManager[None]:
        """New sockets of the calling thread are on the lab's network inside the block."""
        return self.network.entered()

    def close(self) -> None:
        """End every node, remove the network and the files."""
        for node in self.nodes.values():
            node.power_cut()
        self._spawner.shutdown()
        if self._own_processor is not None:
            self._own_processor.close()
        if self.network.exists:
            self.network.remove()
        shutil.rmtree(self._memory, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _take_sigterm(self) -> None:
        """Let SIGTERM unwind the block too, unless the harness has its own way."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._previous = signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _sweep(folder: Path) -> None:
    """Remove what labs left whose process was killed. Their nodes died with it."""
    places = (NAMESPACES, preconditions.MEMORY, folder)
    for name in {path.name for place in places for path in place.glob(f"{PREFIX}-*-*")}:
        owner = name.split("-")[1]
        if not owner.isdecimal() or Path(f"/proc/{owner}").exists():
            continue
        network = Network(name)
        if network.exists:
            _end_processes(network)
            network.remove()
        shutil.rmtree(preconditions.MEMORY / name, ignore_errors=True)
        shutil.rmtree(folder / name, ignore_errors=True)


def _end_processes(network: Network) -> None:
    """Programs of this machine that were left running on a dead lab's network."""
    listed = program.run(["ip", "netns", "pids", network.namespace], check=False)
    for pid in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
