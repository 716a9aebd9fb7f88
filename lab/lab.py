"""A lab: nodes on a network of their own, all gone when its block ends."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from lab import preconditions
from lab.network import FIRST_NODE_HOST, Network, address
from lab.node import Node, Spec

PREFIX = "tlab"


class Lab:
    """``with Lab(folder, specs) as lab: lab["storage"].run([...])``

    All nodes are ready when the block begins. Raises LabError when the machine
    lacks something.
    """

    def __init__(self, folder: Path, specs: Sequence[Spec]) -> None:
        self._specs = tuple(specs)
        self._name = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        self.folder = folder / self._name
        self._memory = preconditions.MEMORY / self._name
        self.network = Network(self._name)
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="lab-spawner")
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Lab:
        preconditions.check(sum(spec.memory_mib for spec in self._specs))
        _sweep(self.folder.parent)
        try:
            self._build()
            self._boot()
        except BaseException:
            self.close()
            raise
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
        self.network.create()
        processors = sorted(os.sched_getaffinity(0))
        hosts = {
            spec.name: address(0, FIRST_NODE_HOST + number)
            for number, spec in enumerate(self._specs)
        }
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

    def _boot(self) -> None:
        with ThreadPoolExecutor(len(self.nodes) or 1) as threads:
            list(threads.map(Node.boot, self.nodes.values()))

    def close(self) -> None:
        """End every node, remove the network and the files."""
        for node in self.nodes.values():
            node.power_cut()
        self._spawner.shutdown()
        if (Path("/run/netns") / self._name).exists():
            self.network.remove()
        shutil.rmtree(self._memory, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what labs left whose process was killed."""
    namespaces = {path.name for path in Path("/run/netns").glob(f"{PREFIX}-*")}
    memories = {path.name for path in preconditions.MEMORY.glob(f"{PREFIX}-*")}
    folders = {path.name for path in folder.glob(f"{PREFIX}-*")}
    for name in namespaces | memories | folders:
        if Path(f"/proc/{name.split('-')[1]}").exists():
            continue
        _end_processes(name)
        if name in namespaces:
            Network(name).remove()
        shutil.rmtree(preconditions.MEMORY / name, ignore_errors=True)
        shutil.rmtree(folder / name, ignore_errors=True)


def _end_processes(name: str) -> None:
    """End the helpers of nodes whose main process is gone: those in the lab's namespace."""
    listed = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
    )
    for pid in listed.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
