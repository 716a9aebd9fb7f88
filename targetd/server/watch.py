"""What a watcher is told: the present state first, then every change as it is by then."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from targetd.api.v1 import host_pb2
from targetd.catalog import Catalog
from targetd.changes import Changes, Kind, Place
from targetd.errors import Unavailable
from targetd.naming import Naming
from targetd.observations import Observations
from targetd.operations import Operations
from targetd.server.convert import (
    connection_message,
    export_message,
    operation_message,
    snapshot_message,
    volume_message,
)

# How often a watcher that nothing is told notices that its caller has gone.
LOOK_SECONDS = 1.0
Removed = host_pb2.Removed


class Watching:
    def __init__(
        self,
        catalog: Catalog,
        changes: Changes,
        observations: Observations,
        operations: Operations,
        naming: Naming,
    ) -> None:
        self._catalog = catalog
        self._changes = changes
        self._observations = observations
        self._operations = operations
        self._naming = naming
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def watch(self, context: grpc.ServicerContext) -> Iterator[host_pb2.WatchResponse]:
        """Until the caller goes. Raises ResourceExhausted, Unavailable at the daemon's end."""
        with self._changes.listening() as listener:
            revision = self._changes.revision()
            # Listening began before: a change meanwhile is told twice, never missed.
            for place in self._present():
                yield from self._responses(place, revision)
            yield host_pb2.WatchResponse(revision=revision, synced=True)
            while self._goes_on(context):
                for place, changed in listener.take(LOOK_SECONDS).items():
                    yield from self._responses(place, changed)

    def _goes_on(self, context: grpc.ServicerContext) -> bool:
        if self._stopping.is_set():
            raise Unavailable("the daemon is stopping; watch again", reason="STOPPING")
        return context.is_active()

    def _present(self) -> Iterator[Place]:
        for volume in self._catalog.volumes():
            yield Place(Kind.VOLUME, volume.volume_id)
        for snapshot in self._catalog.snapshots():
            yield Place(Kind.SNAPSHOT, snapshot.volume_id, snapshot.snapshot_id)
        for export in self._catalog.exports():
            yield Place(Kind.EXPORT, export.volume_id)
        for connection in self._catalog.all_connections():
            yield Place(Kind.CONNECTION, connection.volume_id, connection.attachment_id)
        for operation in self._operations.list():
            if not operation.ended:
                yield Place(Kind.OPERATION, operation.volume_id, operation.operation_id)

    def _responses(self, place: Place, revision: int) -> Iterator[host_pb2.WatchResponse]:
        """How the place looks now, which may be later than the change told of."""
        response = host_pb2.WatchResponse(revision=revision)
        if place.kind is Kind.OPERATION:
            operation = self._operations.find(place.other_id)
            if operation is None:
                return
            response.operation.CopyFrom(operation_message(operation))
        elif place.kind is Kind.CONNECTION:
            self._connection(place, response)
        elif place.kind is Kind.SNAPSHOT:
            self._snapshot(place, response)
        elif place.kind is Kind.EXPORT:
            self._export(place, response)
        else:
            self._volume(place, response)
        yield response

    def _volume(self, place: Place, response: host_pb2.WatchResponse) -> None:
        volume = self._catalog.find_volume(place.volume_id)
        if volume is not None:
            response.volume.CopyFrom(volume_message(volume, self._catalog))
        else:
            response.removed.CopyFrom(Removed(volume_id=place.volume_id, kind=Removed.KIND_VOLUME))

    def _snapshot(self, place: Place, response: host_pb2.WatchResponse) -> None:
        snapshot = self._catalog.find_snapshot(place.other_id)
        if snapshot is not None:
            response.snapshot.CopyFrom(snapshot_message(snapshot))
        else:
            response.removed.CopyFrom(
                Removed(
                    volume_id=place.volume_id,
                    snapshot_id=place.other_id,
                    kind=Removed.KIND_SNAPSHOT,
                )
            )

    def _export(self, place: Place, response: host_pb2.WatchResponse) -> None:
        export = self._catalog.find_export(place.volume_id)
        if export is not None:
            response.export.CopyFrom(
                export_message(
                    export,
                    self._catalog,
                    self._naming,
                    self._observations.last_session_count(place.volume_id),
                )
            )
        else:
            response.removed.CopyFrom(Removed(volume_id=place.volume_id, kind=Removed.KIND_EXPORT))

    def _connection(self, place: Place, response: host_pb2.WatchResponse) -> None:
        connection = self._catalog.find_connection(place.volume_id, place.other_id)
        if connection is not None:
            response.connection.CopyFrom(
                connection_message(connection, self._observations.last(connection), self._catalog)
            )
        else:
            response.removed.CopyFrom(
                Removed(
                    volume_id=place.volume_id,
                    attachment_id=place.other_id,
                    kind=Removed.KIND_CONNECTION,
                )
            )

    def watch_operation(
        self, operation_id: str, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.Operation]:
        """The operation at every step until it has ended. Raises NotFound."""
        with self._changes.listening() as listener:
            operation = self._operations.get(operation_id)
            yield operation_message(operation)
            while not operation.ended and self._goes_on(context):
                if any(place.other_id == operation_id for place in listener.take(LOOK_SECONDS)):
                    operation = self._operations.get(operation_id)
                    yield operation_message(operation)
