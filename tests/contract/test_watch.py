"""Streams of changes and of operations: on the simulated and on the real host."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import grpc

from targetd.api.v1 import host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, refused_with

SECONDS = 30.0
Removed = host_pb2.Removed


def _until_synced(stream: Iterator[host_pb2.WatchResponse]) -> list[host_pb2.WatchResponse]:
    before: list[host_pb2.WatchResponse] = []
    for response in stream:
        if response.synced:
            return before
        before.append(response)
    raise AssertionError("the stream ended")


def test_the_present_state_comes_first(host: Host) -> None:
    volume_id = host.create()
    snapshot_id = host.snapshot(volume_id)
    host.attach(volume_id)
    stream = host.hosts.Watch(host_pb2.WatchRequest(), timeout=SECONDS)
    before = _until_synced(stream)
    stream.cancel()
    kinds = [response.WhichOneof("change") for response in before]
    wanted = {"volume", "snapshot", "export", "connection"}
    assert wanted <= set(kinds)
    by_kind = {response.WhichOneof("change"): response for response in before}
    assert by_kind["volume"].volume.volume_id == volume_id
    assert by_kind["snapshot"].snapshot.snapshot_id == snapshot_id
    assert by_kind["export"].export.attachment_ids == ["attachment-a"]
    assert by_kind["connection"].connection.attachment_id == "attachment-a"


def test_every_change_is_told_with_a_growing_revision(host: Host) -> None:
    stream = host.hosts.Watch(host_pb2.WatchRequest(), timeout=SECONDS)
    _until_synced(stream)
    volume_id = host.create()
    told = next(stream)
    while told.volume.volume_id != volume_id:
        told = next(stream)
    host.attach(volume_id)
    revisions = [told.revision]
    seen: set[str | None] = set()
    while not {"export", "connection"} <= seen:
        told = next(stream)
        revisions.append(told.revision)
        seen.add(told.WhichOneof("change"))
    assert revisions == sorted(revisions)
    assert told.connection.volume_id == volume_id or told.export.volume_id == volume_id
    host.detach(volume_id)
    host.remove_export(volume_id)
    host.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    removed: set[int] = set()
    while len(removed) < 3:
        told = next(stream)
        if told.HasField("removed"):
            removed.add(told.removed.kind)
            assert told.removed.volume_id == volume_id
    assert removed == {Removed.KIND_CONNECTION, Removed.KIND_EXPORT, Removed.KIND_VOLUME}
    stream.cancel()


def test_an_operation_is_watched_to_its_end(host: Host) -> None:
    origin = host.create("thick", 16 * MEBIBYTE)
    volume_id = str(uuid.uuid4())
    made = host.volumes.CreateVolume(
        volume_pb2.CreateVolumeRequest(
            volume_id=volume_id, pool="thin", size_bytes=16 * MEBIBYTE, source_volume_id=origin
        )
    )
    request = host_pb2.WatchOperationRequest(operation_id=made.operation_id)
    told = list(host.hosts.WatchOperation(request, timeout=SECONDS))
    assert told[-1].state == host_pb2.OPERATION_STATE_DONE
    assert told[-1].kind == host_pb2.OPERATION_KIND_COPY
    assert told[-1].volume_id == volume_id
    done = [operation.done_bytes for operation in told]
    assert done == sorted(done) and done[-1] == told[-1].total_bytes == 16 * MEBIBYTE
    host.backing.restart()
    ended = host.hosts.GetOperation(host_pb2.GetOperationRequest(operation_id=made.operation_id))
    assert ended.state == host_pb2.OPERATION_STATE_DONE, "remembered over a restart"


def test_an_unknown_operation_is_not_found(host: Host) -> None:
    with refused_with(grpc.StatusCode.NOT_FOUND):
        next(host.hosts.WatchOperation(host_pb2.WatchOperationRequest(operation_id="x")))
    with refused_with(grpc.StatusCode.INVALID_ARGUMENT):
        next(host.hosts.WatchOperation(host_pb2.WatchOperationRequest()))


def test_too_many_watchers_are_refused_and_others_stay(host: Host) -> None:
    streams = [host.hosts.Watch(host_pb2.WatchRequest(), timeout=SECONDS) for _ in range(16)]
    for stream in streams:
        _until_synced(stream)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED):
        next(host.hosts.Watch(host_pb2.WatchRequest(), timeout=SECONDS))
    volume_id = host.create()
    assert any(told.volume.volume_id == volume_id for told in streams[0])
    for stream in streams:
        stream.cancel()


def test_a_reconcile_on_request_reports_what_it_did(host: Host) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    for request in (host_pb2.ReconcileRequest(), host_pb2.ReconcileRequest(volume_id=volume_id)):
        report = host.hosts.Reconcile(request)
        assert report.exports_checked == 1
        assert not report.drifts and not report.degraded_volume_ids
    with refused_with(grpc.StatusCode.NOT_FOUND):
        host.hosts.Reconcile(host_pb2.ReconcileRequest(volume_id=str(uuid.uuid4())))
