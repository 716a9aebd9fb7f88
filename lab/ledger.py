"""What a client was told and what it was still waiting for, compared with what is there.

The state of a volume, a snapshot or a released logical volume is taken apart into
facts. What the client was told must be there, what it was told is gone must not,
and where it had no answer yet both the state before its call and the state after
it are right, but nothing between.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from targetd.api.v1 import export_pb2

BLOCK = 512
Fact = tuple[str, ...]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


EMPTY = digest(bytes(BLOCK))


@dataclass(frozen=True)
class Attachment:
    attachment_id: str
    initiator: str
    access_mode: export_pb2.AccessMode.ValueType
    # None while the client waits for them.
    properties: export_pb2.ConnectionProperties | None = None


@dataclass(frozen=True)
class VolumeState:
    pool: str
    size_bytes: int
    multi_attach: bool
    # A digest of its first block.
    content: str = EMPTY
    exported: bool = False
    attachments: tuple[Attachment, ...] = ()
    # What it was made from, like "snapshot ID".
    source: str = ""
    # Whether it is being filled from that. Not a fact: it comes to its end by itself.
    filling: bool = False

    def with_attachment(self, attachment: Attachment) -> VolumeState:
        others = self.without_attachment(attachment.attachment_id).attachments
        return replace(self, attachments=(*others, attachment))

    def without_attachment(self, attachment_id: str) -> VolumeState:
        left = tuple(one for one in self.attachments if one.attachment_id != attachment_id)
        return replace(self, attachments=left)

    @property
    def unanswered(self) -> set[str]:
        """The attachments whose properties nobody was told yet."""
        return {one.attachment_id for one in self.attachments if one.properties is None}

    def facts(self, unknown: set[str]) -> set[Fact]:
        """Without the properties of the attachments that are ``unknown``."""
        found: set[Fact] = {
            ("volume", self.pool, "multi" if self.multi_attach else "single"),
            ("size", str(self.size_bytes)),
            ("content", self.content),
        }
        if self.source:
            found.add(("source", self.source))
        if self.exported:
            found.add(("export",))
        for one in self.attachments:
            mode = export_pb2.AccessMode.Name(one.access_mode)
            found.add(("connection", one.attachment_id, one.initiator, mode))
            if one.properties is not None and one.attachment_id not in unknown:
                # A digest: the secret among them is not to be printed.
                told = digest(one.properties.SerializeToString(deterministic=True))
                found.add(("properties", one.attachment_id, told))
        return found


@dataclass(frozen=True)
class SnapshotState:
    volume_id: str
    pool: str
    size_bytes: int
    content: str

    def facts(self, unknown: set[str]) -> set[Fact]:
        return {
            ("snapshot", self.pool, "of", self.volume_id),
            ("size", str(self.size_bytes)),
            ("content", self.content),
        }


@dataclass(frozen=True)
class ReleasedState:
    """A logical volume that was let go of: nobody's, under the id it had as a volume."""

    pool: str
    size_bytes: int
    content: str

    def facts(self, unknown: set[str]) -> set[Fact]:
        return {
            ("released", self.pool),
            ("size", str(self.size_bytes)),
            ("content", self.content),
        }


State = VolumeState | SnapshotState | ReleasedState


def _facts(state: State | None, unknown: set[str]) -> set[Fact]:
    return state.facts(unknown) if state else set()


@dataclass
class Findings:
    losses: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    # Calls without an answer, by how they were found.
    done: int = 0
    undone: int = 0

    @property
    def lines(self) -> list[str]:
        return [
            *(f"LOST: {one}" for one in self.losses),
            *(f"LEAKED: {one}" for one in self.leaks),
            *(f"ORPHANED: {one}" for one in self.orphans),
        ]


@dataclass(frozen=True)
class Call:
    what: str
    after: State | None


class Ledger:
    """One call at a time for each id; threads with ids of their own may share it."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.acknowledged = 0
        # How often each kind of call was.
        self.kinds: Counter[str] = Counter()
        self._in_flight: dict[str, Call] = {}
        self._counting = threading.Lock()

    def copy(self) -> Ledger:
        """As it is now; states are never changed, only exchanged."""
        twin = copy.copy(self)
        twin.states, twin._in_flight = dict(self.states), dict(self._in_flight)
        return twin

    @property
    def volumes(self) -> dict[str, VolumeState]:
        """Of a client at rest."""
        return {key: one for key, one in self.states.items() if isinstance(one, VolumeState)}

    @property
    def snapshots(self) -> dict[str, SnapshotState]:
        """Of a client at rest."""
        return {key: one for key, one in self.states.items() if isinstance(one, SnapshotState)}

    @property
    def in_flight(self) -> list[str]:
        return [call.what for call in self._in_flight.values()]

    def begin(self, item_id: str, what: str, after: State | None) -> None:
        """Before a call is made: what its volume or snapshot will be like when it is done."""
        self._in_flight[item_id] = Call(what, after)

    def acknowledge(self, item_id: str, after: State | None) -> None:
        call = self._in_flight.pop(item_id)
        if after is None:
            self.states.pop(item_id, None)
        else:
            self.states[item_id] = after
        with self._counting:
            self.acknowledged += 1
            self.kinds[call.what] += 1

    def compare(self, seen: Mapping[str, State]) -> Findings:
        """Hold it against what is there, and take over what that is."""
        findings = Findings()
        for item_id in sorted({*self.states, *self._in_flight, *seen}):
            self._compare(item_id, seen.get(item_id), findings)
        self._in_flight.clear()
        self.states = dict(seen)
        return findings

    def _compare(self, item_id: str, seen: State | None, findings: Findings) -> None:
        before, call = self.states.get(item_id), self._in_flight.get(item_id)
        after = call.after if call else before
        unknown = after.unanswered if isinstance(after, VolumeState) else set()
        there = _facts(seen, unknown)
        right = [_facts(before, unknown), _facts(after, unknown)]
        if call:
            findings.done += there == right[1]
            findings.undone += there == right[0] != right[1]
        if there in right:
            return
        while_doing = f" (in flight: {call.what})" if call else ""
        lost, leaked = right[0] & right[1] - there, there - (right[0] | right[1])
        for fact in sorted(lost):
            findings.losses.append(f"{item_id} {' '.join(fact)}{while_doing}")
        for fact in sorted(leaked):
            findings.leaks.append(f"{item_id} {' '.join(fact)}{while_doing}")
        if not lost and not leaked:
            text = ", ".join(" ".join(fact) for fact in sorted(there)) or "nothing"
            findings.orphans.append(f"{item_id} is half done, left with {text}{while_doing}")
