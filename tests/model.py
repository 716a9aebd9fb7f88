"""What a storage host must answer: plain values, no threads, no devices, no records.

Each method judges one call and, when it is to be done, does it here too. It
returns the reason with which the daemon must refuse, or DONE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc

DONE = ""
# The reason in ErrorInfo, and the code that goes with it.
CODES = {
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "NOT_EXPORTED": grpc.StatusCode.NOT_FOUND,
    "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "HAS_CONNECTIONS": grpc.StatusCode.FAILED_PRECONDITION,
    "EXPORTED": grpc.StatusCode.FAILED_PRECONDITION,
    "NOT_MULTI_ATTACH": grpc.StatusCode.FAILED_PRECONDITION,
    "OTHER_ACCESS_MODE": grpc.StatusCode.FAILED_PRECONDITION,
    "LOGGED_IN": grpc.StatusCode.FAILED_PRECONDITION,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BUSY": grpc.StatusCode.ABORTED,
}
EXTENT_BYTES = 4 << 20
# More than any pool of the tests can hold or promise.
HUGE_BYTES = 1 << 42
# Digits, with their dashes, by which initiators tell one disk from another.
IDENTITY_LENGTH = 29


@dataclass(frozen=True)
class Attachment:
    host: str
    mode: str


@dataclass
class ModelVolume:
    pool: str
    size_bytes: int
    multi_attach: bool
    exported: bool = False
    attachments: dict[str, Attachment] = field(default_factory=dict)
    # The hosts that are logged in.
    sessions: set[str] = field(default_factory=set)

    def hosts(self) -> set[str]:
        return {attachment.host for attachment in self.attachments.values()}


class Model:
    def __init__(self) -> None:
        self.volumes: dict[str, ModelVolume] = {}

    # Volumes

    def create(self, volume_id: str, pool: str, size_bytes: int, multi_attach: bool) -> str:
        asked = (pool, rounded(size_bytes), multi_attach)
        existing = self.volumes.get(volume_id)
        if existing is not None:
            same = asked == (existing.pool, existing.size_bytes, existing.multi_attach)
            return DONE if same else "ALREADY_EXISTS"
        if self.has_twin(volume_id):
            return "INVALID_ARGUMENT"
        if size_bytes >= HUGE_BYTES:
            return "RESOURCE_EXHAUSTED"
        self.volumes[volume_id] = ModelVolume(*asked)
        return DONE

    def has_twin(self, volume_id: str) -> bool:
        """Whether an initiator would take the volume's disk for that of another one."""
        return any(
            other != volume_id and other[:IDENTITY_LENGTH] == volume_id[:IDENTITY_LENGTH]
            for other in self.volumes
        )

    def extend(self, volume_id: str, size_bytes: int) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return "NOT_FOUND"
        if size_bytes >= HUGE_BYTES:
            return "RESOURCE_EXHAUSTED"
        volume.size_bytes = max(volume.size_bytes, rounded(size_bytes))
        return DONE

    def delete(self, volume_id: str) -> str:
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.attachments:
            return "HAS_CONNECTIONS"
        if volume is not None and volume.exported:
            return "EXPORTED"
        self.volumes.pop(volume_id, None)
        return DONE

    # Exports

    def create_export(self, volume_id: str) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return "NOT_FOUND"
        volume.exported = True
        return DONE

    def remove_export(self, volume_id: str) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return DONE
        if volume.attachments:
            return "HAS_CONNECTIONS"
        volume.exported = False
        return DONE

    # Connections

    def initialize(self, volume_id: str, attachment_id: str, host: str, mode: str) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return "NOT_FOUND"
        if not volume.exported:
            return "NOT_EXPORTED"
        asked = Attachment(host, mode)
        existing = volume.attachments.get(attachment_id)
        if existing is not None:
            return DONE if existing == asked else "ALREADY_EXISTS"
        if not volume.multi_attach and volume.hosts() - {host}:
            return "NOT_MULTI_ATTACH"
        if any(one.host == host and one.mode != mode for one in volume.attachments.values()):
            return "OTHER_ACCESS_MODE"
        volume.attachments[attachment_id] = asked
        return DONE

    def of_host(self, volume_id: str, host: str) -> set[str]:
        """The attachments of one host."""
        volume = self.volumes.get(volume_id)
        attachments = volume.attachments if volume else {}
        return {one for one, attachment in attachments.items() if attachment.host == host}

    def terminate(
        self, volume_id: str, attachment_ids: Iterable[str], refuse_if_logged_in: bool
    ) -> tuple[str, set[str]]:
        """Beside the reason, the hosts whose live session the call closes."""
        volume = self.volumes.get(volume_id)
        if volume is None:
            return DONE, set()
        stay = {one: volume.attachments[one] for one in volume.attachments}
        for attachment_id in attachment_ids:
            stay.pop(attachment_id, None)
        closing = volume.sessions - {attachment.host for attachment in stay.values()}
        if refuse_if_logged_in and closing:
            return "LOGGED_IN", set()
        volume.attachments = stay
        volume.sessions -= closing
        return DONE, closing


def rounded(size_bytes: int) -> int:
    return -(-size_bytes // EXTENT_BYTES) * EXTENT_BYTES
