"""The index in memory: volumes and snapshots as LVM has them, exports and connections as recorded.

Written only in the volume's turn (see workers), so what concerns one volume is
consistent there; readers elsewhere see each entry whole. Every change is told
to those who watch.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

from targetd.changes import Changes, Kind
from targetd.errors import NotFound
from targetd.model import (
    Connection,
    ConnectionState,
    Export,
    PoolConfig,
    Snapshot,
    Volume,
    copy_source_name,
    snapshot_name,
)


class Catalog:
    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._volumes: dict[str, Volume] = {}
        self._by_wwid: dict[str, str] = {}
        # Of the volumes, by the names of their pools.
        self._promised_bytes = Counter[str]()
        # Volumes change by themselves, and their sum with each of them.
        self._summing = threading.Lock()
        self._snapshots: dict[str, Snapshot] = {}
        self._snapshots_of: defaultdict[str, dict[str, Snapshot]] = defaultdict(dict)
        self._exports: dict[str, Export] = {}
        self._connections: defaultdict[str, dict[str, Connection]] = defaultdict(dict)
        self._degraded: dict[str, str] = {}

    # Volumes

    def volumes(self) -> list[Volume]:
        return list(self._volumes.values())

    def find_volume(self, volume_id: str) -> Volume | None:
        return self._volumes.get(volume_id)

    def volume(self, volume_id: str) -> Volume:
        """Raises NotFound."""
        try:
            return self._volumes[volume_id]
        except KeyError:
            raise NotFound(f"volume {volume_id} does not exist", volume_id=volume_id) from None

    def owner_of(self, wwid: str) -> str:
        """The id of the volume whose disks have this identity, or an empty text."""
        return self._by_wwid.get(wwid, "")

    def put_volume(self, volume: Volume) -> None:
        with self._summing:
            self._take_out(volume.volume_id)
            self._volumes[volume.volume_id] = volume
            self._promised_bytes[volume.pool.name] += volume.size_bytes
        self._by_wwid.setdefault(volume.wwid, volume.volume_id)
        self._changes.publish(Kind.VOLUME, volume.volume_id)

    def drop_volume(self, volume_id: str) -> None:
        self._degraded.pop(volume_id, None)
        with self._summing:
            volume = self._take_out(volume_id)
            self._volumes.pop(volume_id, None)
        if volume is not None:
            if self._by_wwid.get(volume.wwid) == volume_id:
                del self._by_wwid[volume.wwid]
            self._changes.publish(Kind.VOLUME, volume_id)

    def _take_out(self, volume_id: str) -> Volume | None:
        volume = self._volumes.get(volume_id)
        if volume is not None:
            self._promised_bytes[volume.pool.name] -= volume.size_bytes
        return volume

    def promised_bytes(self, pool: PoolConfig) -> int:
        """The sum of what its volumes may hold, however many they are."""
        return self._promised_bytes[pool.name]

    # Snapshots, by the names of their logical volumes

    def snapshots(self, volume_id: str = "") -> list[Snapshot]:
        """Of one volume, or of all; without those that copies are made from."""
        found = self._snapshots.values() if not volume_id else self.snapshots_and_sources(volume_id)
        return [snapshot for snapshot in list(found) if not snapshot.for_copy]

    def snapshots_and_sources(self, volume_id: str) -> list[Snapshot]:
        return list(self._snapshots_of.get(volume_id, {}).values())

    def copy_sources(self) -> list[Snapshot]:
        """The snapshots that copies are, or were, made from."""
        return [snapshot for snapshot in list(self._snapshots.values()) if snapshot.for_copy]

    def find_snapshot(self, snapshot_id: str) -> Snapshot | None:
        return self._snapshots.get(snapshot_name(snapshot_id))

    def find_copy_source(self, volume_id: str) -> Snapshot | None:
        """The snapshot that a new volume is filled from."""
        return self._snapshots.get(copy_source_name(volume_id))

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """Raises NotFound."""
        found = self.find_snapshot(snapshot_id)
        if found is None:
            raise NotFound(f"snapshot {snapshot_id} does not exist", snapshot_id=snapshot_id)
        return found

    def put_snapshot(self, snapshot: Snapshot) -> None:
        self._snapshots[snapshot.lv_name] = snapshot
        self._snapshots_of[snapshot.volume_id][snapshot.lv_name] = snapshot
        self._publish_snapshot(snapshot)

    def drop_snapshot(self, snapshot: Snapshot) -> None:
        if self._snapshots.pop(snapshot.lv_name, None) is not None:
            group = self._snapshots_of[snapshot.volume_id]
            group.pop(snapshot.lv_name, None)
            if not group:
                del self._snapshots_of[snapshot.volume_id]
            self._publish_snapshot(snapshot)

    def _publish_snapshot(self, snapshot: Snapshot) -> None:
        if not snapshot.for_copy:
            self._changes.publish(Kind.SNAPSHOT, snapshot.volume_id, snapshot.snapshot_id)

    # Exports

    def exports(self) -> list[Export]:
        return list(self._exports.values())

    def find_export(self, volume_id: str) -> Export | None:
        return self._exports.get(volume_id)

    def export(self, volume_id: str) -> Export:
        """Raises NotFound."""
        try:
            return self._exports[volume_id]
        except KeyError:
            self.volume(volume_id)
            raise NotFound(
                f"volume {volume_id} is not exported; call CreateExport first",
                reason="NOT_EXPORTED",
                volume_id=volume_id,
            ) from None

    def put_export(self, export: Export) -> None:
        self._exports[export.volume_id] = export
        self._changes.publish(Kind.EXPORT, export.volume_id)

    def drop_export(self, volume_id: str) -> None:
        if self._exports.pop(volume_id, None) is not None:
            self._changes.publish(Kind.EXPORT, volume_id)

    # Volumes whose export could not be brought into its right state, and why

    def degraded(self) -> list[str]:
        return list(self._degraded)

    def is_degraded(self, volume_id: str) -> bool:
        return volume_id in self._degraded

    def set_degraded(self, volume_id: str, reason: str) -> None:
        self._degraded[volume_id] = reason
        self._changes.publish(Kind.VOLUME, volume_id)

    def clear_degraded(self, volume_id: str) -> None:
        if self._degraded.pop(volume_id, None) is not None:
            self._changes.publish(Kind.VOLUME, volume_id)

    # Connections

    def connection(self, volume_id: str, attachment_id: str) -> Connection:
        """Raises NotFound."""
        found = self.find_connection(volume_id, attachment_id)
        if found is None:
            raise NotFound(
                f"volume {volume_id} has no attachment {attachment_id}",
                volume_id=volume_id,
                attachment_id=attachment_id,
            )
        return found

    def find_connection(self, volume_id: str, attachment_id: str) -> Connection | None:
        return self._connections.get(volume_id, {}).get(attachment_id)

    def others(self, connection: Connection) -> list[str]:
        """The other attachments of its volume."""
        group = self._connections.get(connection.volume_id, {})
        return [one for one in list(group) if one != connection.attachment_id]

    def connections(self, volume_id: str) -> list[Connection]:
        return list(self._connections.get(volume_id, {}).values())

    def all_connections(self) -> list[Connection]:
        return [one for group in list(self._connections.values()) for one in list(group.values())]

    def put_connection(self, connection: Connection) -> None:
        self._connections[connection.volume_id][connection.attachment_id] = connection
        self._changes.publish(Kind.CONNECTION, connection.volume_id, connection.attachment_id)

    def drop_connection(self, connection: Connection) -> None:
        group = self._connections.get(connection.volume_id, {})
        if group.pop(connection.attachment_id, None) is None:
            return
        if not group:
            del self._connections[connection.volume_id]
        self._changes.publish(Kind.CONNECTION, connection.volume_id, connection.attachment_id)

    def is_detaching(self, volume_id: str) -> bool:
        return any(
            connection.state is ConnectionState.REVOKING
            for connection in self.connections(volume_id)
        )
