"""A storage host on disks with volatile caches, and the power cuts it could have had.

Both disks, the volumes' and the state's, are recorded by dm-log-writes while a
client works. Afterwards any moment can be made a power cut: the images get what
each disk was bound to have kept by then, and a part of what was in its cache. A
log for each disk, since a flush of one does not flush the other; common marks
say which places in the two logs are the same moment.
"""

from __future__ import annotations

import bisect
import random
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import logwrites
from lab.agreement import Client
from lab.errors import LabError
from lab.ledger import Findings, Ledger, State
from lab.logwrites import Entry, Log
from lab.node import GUEST, Disk, Node, Process, Spec
from lab.processors import idle_first
from lab.storage import GIBIBYTE, MEBIBYTE, StorageHost
from lab.verify import verify

VOLUMES, STATE = "volumes", "state"
SIZES = {VOLUMES: 4 * GIBIBYTE, STATE: 256 * MEBIBYTE}
# Each has its log on the disk that follows it.
DISKS = {VOLUMES: "/dev/ubda", STATE: "/dev/ubdc"}
LOGS = {VOLUMES: "/dev/ubdb", STATE: "/dev/ubdd"}
LOG_BYTES = 4 * GIBIBYTE
# At the start of the disk. LVM writes its metadata and then the header that points to
# it without a flush between: a disk that keeps the second without the first has lost
# the volume group, whatever a caller of LVM does (docs/limitations.md).
LVM_METADATA_BYTES = MEBIBYTE
SECTOR = 512
MARKER_PORT = 7789
TICK_MILLISECONDS = 5
READY_SECONDS = 30.0
PREPARED, END = "prepared", "end"
ACKNOWLEDGED = "acknowledged-"
# The disks below are the same volume group once more.
LVM_CONFIGURATION = """\
activation { monitoring = 0 }
devices { global_filter = [ "r|^/dev/ubd.*|" ] }
"""


def spec(name: str = "storage") -> Spec:
    disks = [
        disk
        for which, size in SIZES.items()
        for disk in (Disk(which, size), Disk(f"{which}-log", LOG_BYTES))
    ]
    return Spec(name, memory_mib=512, systemd=True, disks=tuple(disks))


class History(Ledger):
    """Also as it was after each acknowledgement, with the call that came next in flight."""

    def __init__(self) -> None:
        super().__init__()
        self._past: dict[int, Ledger] = {}

    def begin(self, item_id: str, what: str, after: State | None) -> None:
        super().begin(item_id, what, after)
        self._past[self.acknowledged] = self.copy()

    def after(self, acknowledged: int) -> Ledger:
        return self._past.get(acknowledged, self).copy()


class Recorder:
    """A booted node of ``spec``: targetd on disks that are recorded."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.write("/etc/lvm/lvmlocal.conf", LVM_CONFIGURATION)
        node.run(["modprobe", "dm_log_writes"])
        for name, size in SIZES.items():
            table = f"0 {size // SECTOR} log-writes {DISKS[name]} {LOGS[name]}"
            node.run(["dmsetup", "create", name, "--table", table])
        self.storage = StorageHost(node, f"/dev/mapper/{VOLUMES}", f"/dev/mapper/{STATE}")
        self.storage.prepare_disks()
        self.storage.install()
        node.run(["sync"])
        for name in SIZES:
            node.run(["sync", f"/dev/mapper/{name}"])
        self._marker = self._start_marker()
        self._line = self._connect()
        self.mark(PREPARED)

    def _start_marker(self) -> Process:
        marker = self.node.start(
            [
                *("python3", f"{GUEST}/marker.py", self.node.address, str(MARKER_PORT)),
                *(str(TICK_MILLISECONDS), *SIZES),
            ]
        )
        end = time.monotonic() + READY_SECONDS
        while "ready" not in marker.output():
            if time.monotonic() > end or marker.poll() is not None:
                raise LabError(f"the marker did not start: {marker.output()}")
        return marker

    def _connect(self) -> socket.socket:
        with self.node.network.entered():
            line = socket.create_connection((self.node.address, MARKER_PORT), READY_SECONDS)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line

    def mark(self, name: str) -> None:
        """Returns when the mark is in the logs."""
        wanted = name.encode() + b"\n"
        self._line.sendall(wanted)
        answer = b""
        while not answer.endswith(wanted):
            data = self._line.recv(4096)
            if not data:
                raise LabError(f"the marker ended: {self._marker.output()}")
            answer += data

    def finish(self) -> Recording:
        """End the node and read the logs."""
        self.mark(END)
        self._line.close()
        self.storage.close()
        # The kernel writes a mark into its log a little later.
        end = time.monotonic() + READY_SECONDS
        logs = [self._log(name) for name in SIZES]
        while not all(any(one.mark == END for one in log.entries) for log in logs):
            if time.monotonic() > end:
                raise LabError("the last mark is not in the logs")
            time.sleep(0.1)
            logs = [self._log(name) for name in SIZES]
        self.node.power_cut()
        return Recording(logs[0], logs[1])

    def _log(self, name: str) -> Log:
        return logwrites.read(self.node.disk(f"{name}-log"))


@dataclass(frozen=True)
class Moment:
    """Where a mark stands in the log of the volumes, before and after it was put into
    the other, and in that of the state."""

    name: str
    volumes: int
    volumes_after: int
    state: int


@dataclass(frozen=True)
class Cut:
    """The power goes: how many entries of each log are kept, and what of the caches."""

    name: str
    volumes: int
    state: int
    # Acknowledgements before it.
    acknowledged: int
    more_volumes: Sequence[Entry] = ()
    more_state: Sequence[Entry] = ()


class Recording:
    def __init__(self, volumes: Log, state: Log) -> None:
        self.volumes = volumes
        self.state = state
        self.moments = self._moments()
        names = [moment.name for moment in self.moments]
        self._first = names.index(PREPARED)
        # For each moment.
        self._counts: list[int] = []
        for name in names:
            if name.startswith(ACKNOWLEDGED):
                self._counts.append(int(name.removeprefix(ACKNOWLEDGED)))
            else:
                self._counts.append(self._counts[-1] if self._counts else 0)

    def _moments(self) -> list[Moment]:
        places: dict[str, list[int]] = {}
        for place, entry in enumerate(self.volumes.entries):
            if entry.mark:
                places.setdefault(entry.mark, []).append(place)
        found = []
        for place, entry in enumerate(self.state.entries):
            # At the very end the second half of a tick may be missing.
            if entry.mark and len(places.get(entry.mark, ())) == 2:
                before, after = places[entry.mark]
                found.append(Moment(entry.mark, before, after, place))
        return found

    def exact(self, moment: Moment) -> bool:
        return self.volumes.quiet(moment.volumes, moment.volumes_after)

    def at(self, name: str) -> Cut:
        """At a mark, with all caches lost. Raises LabError when the disks were at work."""
        (number,) = (n for n, moment in enumerate(self.moments) if moment.name == name)
        moment = self.moments[number]
        if not self.exact(moment):
            raise LabError(f"the disks were at work at {name}")
        return Cut(name, moment.volumes, moment.state, self._counts[number])

    def acknowledgements(self) -> list[Cut]:
        """Right after each acknowledgement, with all caches lost."""
        return [
            self.at(moment.name)
            for moment in self.moments
            if moment.name.startswith(ACKNOWLEDGED) and self.exact(moment)
        ]

    def flushes_of_volumes(self, rng: random.Random) -> list[Cut]:
        """While a flush goes on: a part of what it is to make durable is on the disk.

        Only where the other disk is at rest from the mark before to the mark after,
        so that it is known how far it was. Its cache is lost.
        """
        cuts = []
        marks = [moment.volumes for moment in self.moments]
        for number, flush, group in self._groups(self.volumes, marks):
            before, after = self.moments[number], self.moments[number + 1]
            inside = before.volumes_after < group.start and flush < after.volumes
            if inside and self.state.quiet(before.state, after.state):
                cut = Cut(
                    f"flush of volumes {flush}",
                    volumes=group.start,
                    state=before.state,
                    acknowledged=self._counts[number],
                    more_volumes=logwrites.some(
                        (self.volumes.entries[n] for n in group), rng, LVM_METADATA_BYTES
                    ),
                )
                cuts.append(cut)
        return cuts

    def flushes_of_state(self, rng: random.Random) -> list[Cut]:
        """The same for the other disk."""
        cuts = []
        marks = [moment.state for moment in self.moments]
        for number, flush, group in self._groups(self.state, marks):
            before, after = self.moments[number], self.moments[number + 1]
            if self.volumes.quiet(before.volumes, after.volumes_after):
                cut = Cut(
                    f"flush of state {flush}",
                    volumes=before.volumes,
                    state=group.start,
                    acknowledged=self._counts[number],
                    more_state=logwrites.some((self.state.entries[n] for n in group), rng),
                )
                cuts.append(cut)
        return cuts

    def _groups(self, log: Log, marks: list[int]) -> Iterator[tuple[int, int, range]]:
        """Flushes that had something to flush, each with the moment before it."""
        for flush, entry in enumerate(log.entries):
            number = bisect.bisect(marks, flush) - 1
            if entry.is_flush and self._first <= number < len(self.moments) - 1:
                group = log.group(flush)
                if group:
                    yield number, flush, group

    def write(self, cut: Cut, volumes: Path, state: Path) -> None:
        """The two disks as the cut leaves them."""
        logwrites.replay(self.volumes, cut.volumes, volumes, SIZES[VOLUMES], cut.more_volumes)
        logwrites.replay(self.state, cut.state, state, SIZES[STATE], cut.more_state)


class Replayer:
    """The node of a recording, which comes back after each of its cuts.

    The same node, because its addresses are in what the client was told.
    """

    def __init__(self, recording: Recording, node: Node) -> None:
        self._recording = recording
        self._node = node
        # Below the recorded devices: nothing is recorded any more.
        self._storage = StorageHost(node, DISKS[VOLUMES], DISKS[STATE])
        self._storage.pack()

    def check(self, cut: Cut, ledger: Ledger) -> Findings:
        node = self._node
        node.power_cut()
        self._recording.write(cut, node.disk(VOLUMES), node.disk(STATE))
        node.cpu = idle_first()[0]
        node.boot()
        try:
            self._storage.start()
        except LabError as error:
            return Findings(losses=[str(error)])
        with self._storage.channel() as channel:
            return verify(self._storage, Client(channel), ledger)

    def close(self) -> None:
        self._storage.close()
