"""Every method of the contract is called, well and wrongly, and all that comes back is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from targetd.api.v1 import (
    export_pb2,
    export_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
)
from tests.fuzz import SERVICES
from tests.hosts import MEBIBYTE, Host

METHODS = {method.name for service in SERVICES for method in service.methods}
# Answers that hold a secret, since their caller is to have it.
TELL = {"InitializeConnection", "CreateExport"}
NO_SUCH = "00000000-0000-4000-8000-000000000000"


class Heard(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """What callers get to see: answers and errors as texts, and the secrets they were told."""

    def __init__(self) -> None:
        self.methods: set[str] = set()
        self.texts: list[str] = []
        self.secrets: set[str] = set()

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        name = details.method.rpartition("/")[2]
        self.methods.add(name)
        error = call.exception()
        if error is None:
            self._answer(name, call.result())
        else:
            self.texts.append(f"{error.details()} {error.trailing_metadata()}")
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        self.methods.add(details.method.rpartition("/")[2])
        return self._stream(call)

    def _stream(self, call: Any) -> Iterator[Any]:
        for answer in call:
            self.texts.append(str(answer))
            yield answer

    def _answer(self, name: str, answer: Message) -> None:
        self.secrets |= set(secrets_in(answer))
        if name in TELL:
            return
        self.texts.append(str(answer) + str(answer.SerializeToString()))


def secrets_in(message: Any) -> Iterator[str]:
    """What stands in the fields that the contract marks as secret."""
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            yield value
        elif field.message_type is not None and isinstance(value, Message):
            yield from secrets_in(value)


class EveryCall:
    def __init__(self, host: Host) -> None:
        self.heard = Heard()
        self._host = host
        channel = grpc.intercept_channel(host.channel, self.heard)
        self._volumes = volume_pb2_grpc.VolumeServiceStub(channel)
        self._exports = export_pb2_grpc.ExportServiceStub(channel)
        self._hosts = host_pb2_grpc.HostServiceStub(channel)

    def run(self) -> None:
        """Ends with the host as it was. Raises AssertionError when a method was left out."""
        thin, thick = self._host.create(multi_attach=True), self._host.create("thick")
        self._attach(thin)
        self._look(thin)
        self._refused(thin)
        self._detach(thin)
        self._change(thin, thick)
        assert self.heard.methods == METHODS, METHODS - self.heard.methods

    def _attach(self, volume_id: str) -> None:
        self._exports.CreateExport(export_pb2.CreateExportRequest(volume_id=volume_id))
        for host, mutual in (("a", False), ("b", True)):
            connector = self._host.connector(host)
            self._exports.ValidateConnector(
                export_pb2.ValidateConnectorRequest(connector=connector)
            )
            self._exports.InitializeConnection(self._wanted(volume_id, host, mutual))

    def _wanted(
        self, volume_id: str, host: str, mutual: bool
    ) -> export_pb2.InitializeConnectionRequest:
        return export_pb2.InitializeConnectionRequest(
            volume_id=volume_id,
            attachment_id=f"attachment-{host}",
            connector=self._host.connector(host),
            mutual_chap=mutual,
        )

    def _look(self, volume_id: str) -> None:
        exports, volumes, hosts = self._exports, self._volumes, self._hosts
        exports.GetExport(export_pb2.GetExportRequest(volume_id=volume_id))
        exports.ListExports(export_pb2.ListExportsRequest())
        exports.GetConnection(
            export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id="attachment-b")
        )
        exports.ListConnections(export_pb2.ListConnectionsRequest())
        exports.ListSessions(export_pb2.ListSessionsRequest(volume_id=volume_id))
        volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=volume_id))
        volumes.ListVolumes(volume_pb2.ListVolumesRequest())
        volumes.ListPools(volume_pb2.ListPoolsRequest())
        hosts.GetHost(host_pb2.GetHostRequest())
        hosts.Reconcile(host_pb2.ReconcileRequest())
        hosts.GetFlightRecord(host_pb2.GetFlightRecordRequest())
        for answer in hosts.Watch(host_pb2.WatchRequest(), timeout=30):
            if answer.synced:
                return

    def _refused(self, volume_id: str) -> None:
        """Errors name things too."""
        other = self._wanted(volume_id, "a", False)
        other.attachment_id = "attachment-b"
        wrong: list[tuple[Callable[[Any], Any], Any]] = [
            (self._exports.InitializeConnection, other),
            (self._exports.InitializeConnection, self._wanted(volume_id, "a", True)),
            (self._exports.InitializeConnection, self._wanted(NO_SUCH, "a", True)),
            (self._exports.RemoveExport, export_pb2.RemoveExportRequest(volume_id=volume_id)),
            (self._volumes.DeleteVolume, volume_pb2.DeleteVolumeRequest(volume_id=volume_id)),
        ]
        for call, request in wrong:
            try:
                call(request)
            except grpc.RpcError:
                continue
            raise AssertionError(f"not refused: {request}")

    def _detach(self, volume_id: str) -> None:
        for host in ("a", "b"):
            self._exports.TerminateConnection(
                export_pb2.TerminateConnectionRequest(
                    volume_id=volume_id, attachment_id=f"attachment-{host}"
                )
            )
        self._exports.RemoveExport(export_pb2.RemoveExportRequest(volume_id=volume_id))

    def _change(self, thin: str, thick: str) -> None:
        volumes = self._volumes
        copy, snapshot = NO_SUCH[:-1] + "1", NO_SUCH[:-1] + "2"
        volumes.ExtendVolume(
            volume_pb2.ExtendVolumeRequest(volume_id=thin, size_bytes=32 * MEBIBYTE)
        )
        volumes.CreateSnapshot(
            volume_pb2.CreateSnapshotRequest(snapshot_id=snapshot, volume_id=thin)
        )
        volumes.GetSnapshot(volume_pb2.GetSnapshotRequest(snapshot_id=snapshot))
        volumes.ListSnapshots(volume_pb2.ListSnapshotsRequest())
        volumes.CreateVolume(
            volume_pb2.CreateVolumeRequest(
                volume_id=copy, pool="thin", size_bytes=32 * MEBIBYTE, source_snapshot_id=snapshot
            )
        )
        volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=copy))
        volumes.DeleteSnapshot(volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot))
        volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=thin))
        released = volumes.ReleaseVolume(
            volume_pb2.ReleaseVolumeRequest(volume_id=thick, lv_name="released-secret")
        )
        assert released is not None
        volumes.AdoptVolume(
            volume_pb2.AdoptVolumeRequest(volume_id=thick, pool="thick", lv_name="released-secret")
        )
        operation_id = volumes.DeleteVolume(
            volume_pb2.DeleteVolumeRequest(volume_id=thick)
        ).operation_id
        self._hosts.GetOperation(host_pb2.GetOperationRequest(operation_id=operation_id))
        for _ in self._hosts.WatchOperation(
            host_pb2.WatchOperationRequest(operation_id=operation_id), timeout=60
        ):
            pass
