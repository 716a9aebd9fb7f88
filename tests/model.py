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
    "OTHER_CHAP": grpc.StatusCode.FAILED_PRECONDITION,
    "COPYING": grpc.StatusCode.FAILED_PRECONDITION,
    "BEING_COPIED": grpc.StatusCode.FAILED_PRECONDITION,
    "HAS_SNAPSHOTS": grpc.StatusCode.FAILED_PRECONDITION,
    "NOT_ADOPTABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "NAME_TAKEN": grpc.StatusCode.FAILED_PRECONDITION,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "OVER_SUBSCRIBED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "BUSY": grpc.StatusCode.ABORTED,
}
EXTENT_BYTES = 4 << 20
# More than any pool of the tests can hold or promise.
HUGE_BYTES = 1 << 42


@dataclass(frozen=True)
class Attachment:
    host: str
    mode: str
    mutual: bool = False


# "snapshot" or "volume", and its id.
Source = tuple[str, str]


@dataclass
class ModelVolume:
    pool: str
    size_bytes: int
    multi_attach: bool
    source: Source | None = None
    # The name that its logical volume had before it was adopted.
    adopted_name: str = ""
    # It is being filled from its source.
    copying: bool = False
    exported: bool = False
    attachments: dict[str, Attachment] = field(default_factory=dict)
    # The hosts that are logged in.
    sessions: set[str] = field(default_factory=set)

    def hosts(self) -> set[str]:
        return {attachment.host for attachment in self.attachments.values()}


@dataclass
class ModelSnapshot:
    volume_id: str
    pool: str
    size_bytes: int
    reserve_bytes: int


class Model:
    def __init__(self) -> None:
        self.volumes: dict[str, ModelVolume] = {}
        self.snapshots: dict[str, ModelSnapshot] = {}
        # Logical volumes of somebody else's: pool and size.
        self.foreign: dict[str, tuple[str, int]] = {}

    # Volumes

    def create(
        self,
        volume_id: str,
        pool: str,
        size_bytes: int,
        multi_attach: bool,
        source: Source | None = None,
    ) -> str:
        existing = self.volumes.get(volume_id)
        if existing is not None:
            has = (existing.pool, existing.size_bytes, existing.multi_attach, existing.source)
            same = has == (pool, rounded(size_bytes), multi_attach, source)
            return DONE if same else "ALREADY_EXISTS"
        origin = self.origin(source)
        refused = self._refused_source(source, origin, size_bytes) or self._too_much(
            pool, size_bytes
        )
        if refused:
            return refused
        if f"volume-{volume_id}" in self.foreign:
            return "NAME_TAKEN"
        volume = ModelVolume(pool, rounded(size_bytes), multi_attach, source)
        volume.copying = origin is not None and {pool, origin.pool} != {"thin"}
        self.volumes[volume_id] = volume
        return DONE

    def origin(self, source: Source | None) -> ModelVolume | ModelSnapshot | None:
        if source is None:
            return None
        kind, source_id = source
        return self.volumes.get(source_id) if kind == "volume" else self.snapshots.get(source_id)

    def _refused_source(
        self,
        source: Source | None,
        origin: ModelVolume | ModelSnapshot | None,
        size_bytes: int,
    ) -> str:
        if source is None:
            return DONE
        if origin is None:
            return "NOT_FOUND"
        if isinstance(origin, ModelVolume) and origin.copying:
            return "COPYING"
        return "INVALID_ARGUMENT" if size_bytes < origin.size_bytes else DONE

    def _too_much(self, pool: str, size_bytes: int) -> str:
        if size_bytes < HUGE_BYTES:
            return DONE
        return "OVER_SUBSCRIBED" if pool == "thin" else "RESOURCE_EXHAUSTED"

    def extend(self, volume_id: str, size_bytes: int) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return "NOT_FOUND"
        if size_bytes <= volume.size_bytes:
            return DONE
        if volume.copying:
            return "COPYING"
        refused = self._held(volume_id) if volume.pool == "thick" else DONE
        refused = refused or self._too_much(volume.pool, size_bytes)
        if refused == DONE:
            volume.size_bytes = rounded(size_bytes)
        return refused

    def _held(self, volume_id: str) -> str:
        """Why what has been made of a volume keeps it as it is."""
        if self._copied(("volume", volume_id)):
            return "BEING_COPIED"
        if any(snapshot.volume_id == volume_id for snapshot in self.snapshots.values()):
            return "HAS_SNAPSHOTS"
        return DONE

    def _copied(self, source: Source) -> bool:
        return any(one.copying and one.source == source for one in self.volumes.values())

    def delete(self, volume_id: str) -> str:
        refused = self._in_use(volume_id)
        if refused == DONE:
            self.volumes.pop(volume_id, None)
        return refused

    def _in_use(self, volume_id: str) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return DONE
        if volume.attachments:
            return "HAS_CONNECTIONS"
        return "EXPORTED" if volume.exported else self._held(volume_id)

    def adopt(self, volume_id: str, pool: str, lv_name: str, multi_attach: bool) -> str:
        existing = self.volumes.get(volume_id)
        if existing is not None:
            has = (existing.pool, existing.adopted_name, existing.multi_attach)
            return DONE if has == (pool, lv_name, multi_attach) else "ALREADY_EXISTS"
        if lv_name not in self.foreign:
            ours = lv_name.removeprefix("volume-") in self.volumes
            return "NOT_ADOPTABLE" if ours else "NOT_FOUND"
        in_pool, size_bytes = self.foreign[lv_name]
        if in_pool != pool:
            return "NOT_ADOPTABLE"
        if f"volume-{volume_id}" in self.foreign.keys() - {lv_name}:
            return "NAME_TAKEN"
        del self.foreign[lv_name]
        self.volumes[volume_id] = ModelVolume(pool, size_bytes, multi_attach, adopted_name=lv_name)
        return DONE

    def release(self, volume_id: str, lv_name: str) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return DONE
        refused = "COPYING" if volume.copying else self._in_use(volume_id)
        if refused:
            return refused
        lv_name = lv_name or f"volume-{volume_id}"
        others = {f"volume-{one}" for one in self.volumes if one != volume_id}
        if lv_name in others | self.foreign.keys():
            return "NAME_TAKEN"
        del self.volumes[volume_id]
        self.foreign[lv_name] = (volume.pool, volume.size_bytes)
        return DONE

    # Snapshots

    def snapshot(self, snapshot_id: str, volume_id: str, reserve_bytes: int) -> str:
        existing = self.snapshots.get(snapshot_id)
        if existing is not None:
            same = (existing.volume_id, existing.reserve_bytes) == (volume_id, reserve_bytes)
            return DONE if same else "ALREADY_EXISTS"
        volume = self.volumes.get(volume_id)
        if volume is None:
            return "NOT_FOUND"
        if volume.copying:
            return "COPYING"
        if reserve_bytes and volume.pool == "thin":
            return "INVALID_ARGUMENT"
        self.snapshots[snapshot_id] = ModelSnapshot(
            volume_id, volume.pool, volume.size_bytes, reserve_bytes
        )
        return DONE

    def delete_snapshot(self, snapshot_id: str) -> str:
        if self._copied(("snapshot", snapshot_id)):
            return "BEING_COPIED"
        self.snapshots.pop(snapshot_id, None)
        return DONE

    # Exports

    def create_export(self, volume_id: str) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return "NOT_FOUND"
        if volume.copying:
            return "COPYING"
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

    def initialize(
        self, volume_id: str, attachment_id: str, host: str, mode: str, mutual: bool
    ) -> str:
        volume = self.volumes.get(volume_id)
        if volume is None:
            return "NOT_FOUND"
        if not volume.exported:
            return "NOT_EXPORTED"
        asked = Attachment(host, mode, mutual)
        existing = volume.attachments.get(attachment_id)
        if existing is not None:
            return DONE if existing == asked else "ALREADY_EXISTS"
        if not volume.multi_attach and volume.hosts() - {host}:
            return "NOT_MULTI_ATTACH"
        if any(one.host == host and one.mode != mode for one in volume.attachments.values()):
            return "OTHER_ACCESS_MODE"
        if any(one.host == host and one.mutual != mutual for one in volume.attachments.values()):
            return "OTHER_CHAP"
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

    # The host

    def reconcile(self, volume_id: str) -> str:
        volume = self.volumes.get(volume_id)
        if not volume_id or (volume is not None and volume.exported):
            return DONE
        return "NOT_EXPORTED" if volume is not None else "NOT_FOUND"


def rounded(size_bytes: int) -> int:
    return -(-size_bytes // EXTENT_BYTES) * EXTENT_BYTES
