"""What those who attach know of their attachments, by what they were told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lab.errors import LabError
from lab.initiator import Initiator


class Stage(StrEnum):
    RESERVED = "reserved"
    CONNECTED = "connected"
    ATTACHED = "attached"
    # Of the volume's actions only.
    BEGUN = "detach begun"
    DISCONNECTED = "disconnected"


NONE: Stage | None = None
WITH_ACCESS = frozenset({Stage.CONNECTED, Stage.ATTACHED, Stage.BEGUN})


@dataclass(frozen=True)
class Peer:
    """An attaching host of the lab, or one that it plays under another initiator's name."""

    initiator: Initiator
    played: str = ""

    @property
    def iqn(self) -> str:
        return self.played or self.initiator.name

    @property
    def connector(self) -> dict[str, Any]:
        connector = self.initiator.connector
        if self.played:
            connector |= {"initiator": self.played, "host": self.played.rpartition(":")[2]}
        return connector

    def log_in(self, info: Mapping[str, Any]) -> str:
        """Returns the disk. Raises LoginFailed, LoginRefused."""
        return self.initiator.login(info, self.played)

    def log_out(self, info: Mapping[str, Any]) -> None:
        self.initiator.drop(info)


@dataclass(frozen=True)
class Held:
    """What a worker was told last of an attachment."""

    id: str
    stage: Stage
    mode: str = "rw"
    peer: Peer | None = None
    # With the secret; None when it went with an answer that did not come.
    info: Mapping[str, Any] | None = field(default=None, repr=False)
    logged_in: bool = False


@dataclass
class Slot:
    """Room for one attachment at a time. A volume that several may attach has several slots."""

    volume_id: str
    peers: Sequence[Peer]
    modes: Sequence[str] = ("rw", "ro")
    # One session to a target for each node: those who share a volume leave it.
    may_log_in: bool = False
    held: Held | None = None
    instance: str = ""
    # Peers and properties of those that were taken away, the last one at the end.
    gone: list[tuple[Peer, Mapping[str, Any]]] = field(default_factory=list, repr=False)


class Tally:
    """What happened, counted by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acknowledged: Counter[str] = Counter()
        # Calls that were cut off, by what was found afterwards.
        self.cut_off: Counter[str] = Counter()
        self.failed = self.busy = self.logins = 0

    @property
    def total(self) -> int:
        with self._lock:
            return sum(self.acknowledged.values())

    @property
    def is_settled(self) -> bool:
        """Nobody waits for what a call that was cut off has become."""
        with self._lock:
            return self.failed == sum(self.cut_off.values())

    def acknowledge(self, kind: str) -> None:
        with self._lock:
            self.acknowledged[kind] += 1

    def fail(self) -> None:
        """A call was cut off; what is found of it comes later."""
        with self._lock:
            self.failed += 1

    def found(self, kind: str, why: str, stage: Stage | None) -> None:
        with self._lock:
            self.cut_off[f"{kind}, {why}: {stage or 'none'}"] += 1

    def count_busy(self) -> None:
        with self._lock:
            self.busy += 1

    def count_login(self) -> None:
        with self._lock:
            self.logins += 1


def log_in(volume_id: str, held: Held) -> str:
    """With what was acknowledged; returns the disk, which is the right one. Raises LabError."""
    assert held.peer is not None and held.info is not None
    disk = held.peer.log_in(held.info)
    if (serial := held.peer.initiator.serial(disk)) != volume_id:
        raise LabError(f"{disk} of volume {volume_id} says that it is {serial}")
    return disk


def all_held(slots: Collection[Slot]) -> list[tuple[Slot, Held]]:
    return [(slot, slot.held) for slot in slots if slot.held is not None]
