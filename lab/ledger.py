"""What a client was told and what it was still waiting for, compared with what is there.

A volume's state is taken apart into facts. What the client was told must be
there, what it was told is gone must not, and where it had no answer yet both
the state before its call and the state after it are right, but nothing between.
"""

from __future__ import annotations

import copy
import hashlib
import threading
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

    def with_attachment(self, attachment: Attachment) -> VolumeState:
        others = self.without_attachment(attachment.attachment_id).attachments
        return replace(self, attachments=(*others, attachment))

    def without_attachment(self, attachment_id: str) -> VolumeState:
        left = tuple(one for one in self.attachments if one.attachment_id != attachment_id)
        return replace(self, attachments=left)


def _facts(state: VolumeState | None, unknown: set[str]) -> set[Fact]:
    """Without the properties of the attachments that are ``unknown``."""
    if state is None:
        return set()
    found: set[Fact] = {
        ("volume", state.pool, "multi" if state.multi_attach else "single"),
        ("size", str(state.size_bytes)),
        ("content", state.content),
    }
    if state.exported:
        found.add(("export",))
    for one in state.attachments:
        mode = export_pb2.AccessMode.Name(one.access_mode)
        found.add(("connection", one.attachment_id, one.initiator, mode))
        if one.properties is not None and one.attachment_id not in unknown:
            # A digest: the secret among them is not to be printed.
            told = digest(one.properties.SerializeToString(deterministic=True))
            found.add(("properties", one.attachment_id, told))
    return found


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
    after: VolumeState | None


class Ledger:
    """One call at a time for each volume; threads with volumes of their own may share it."""

    def __init__(self) -> None:
        self.volumes: dict[str, VolumeState] = {}
        self.acknowledged = 0
        self._in_flight: dict[str, Call] = {}
        self._counting = threading.Lock()

    def copy(self) -> Ledger:
        """As it is now; states are never changed, only exchanged."""
        twin = copy.copy(self)
        twin.volumes, twin._in_flight = dict(self.volumes), dict(self._in_flight)
        return twin

    @property
    def in_flight(self) -> list[str]:
        return [call.what for call in self._in_flight.values()]

    def begin(self, volume_id: str, what: str, after: VolumeState | None) -> None:
        """Before a call is made: what its volume will be like when it is done."""
        self._in_flight[volume_id] = Call(what, after)

    def acknowledge(self, volume_id: str, after: VolumeState | None) -> None:
        del self._in_flight[volume_id]
        self._put(volume_id, after)
        with self._counting:
            self.acknowledged += 1

    def _put(self, volume_id: str, state: VolumeState | None) -> None:
        if state is None:
            self.volumes.pop(volume_id, None)
        else:
            self.volumes[volume_id] = state

    def compare(self, seen: Mapping[str, VolumeState]) -> Findings:
        """Hold it against what is there, and take over what that is."""
        findings = Findings()
        for volume_id in sorted({*self.volumes, *self._in_flight, *seen}):
            self._compare(volume_id, seen.get(volume_id), findings)
        self._in_flight.clear()
        self.volumes = dict(seen)
        return findings

    def _compare(self, volume_id: str, seen: VolumeState | None, findings: Findings) -> None:
        before, call = self.volumes.get(volume_id), self._in_flight.get(volume_id)
        after = call.after if call else before
        unknown = (
            {one.attachment_id for one in after.attachments if not one.properties}
            if (after)
            else set()
        )
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
            findings.losses.append(f"{volume_id} {' '.join(fact)}{while_doing}")
        for fact in sorted(leaked):
            findings.leaks.append(f"{volume_id} {' '.join(fact)}{while_doing}")
        if not lost and not leaked:
            text = ", ".join(" ".join(fact) for fact in sorted(there)) or "nothing"
            findings.orphans.append(f"{volume_id} is half done, left with {text}{while_doing}")
