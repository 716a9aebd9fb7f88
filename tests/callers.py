"""Calls made at once, each with its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.answers import answer_of
from tests.hosts import MEBIBYTE, Host, RealBacking

Item = TypeVar("Item")
Result = TypeVar("Result")
Answer = tuple[str, Any]


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Each item in a thread of its own, all let go together."""
    items = list(items)
    gate = threading.Barrier(len(items))

    def go(item: Item) -> Result:
        gate.wait()
        return work(item)

    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(go, items))


def call_with(volume_id: str, work: Callable[[str], Result]) -> Result:
    return work(volume_id)


def in_lab(host: Host) -> bool:
    return isinstance(host.backing, RealBacking)


class Caller:
    """The calls of the contract on one host, each answered with its reason and its answer."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def create(
        self,
        volume_id: str,
        size_bytes: int = 4 * MEBIBYTE,
        pool: str = "thin",
        source_snapshot_id: str = "",
        source_volume_id: str = "",
    ) -> Answer:
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id,
            pool=pool,
            size_bytes=size_bytes,
            source_snapshot_id=source_snapshot_id,
            source_volume_id=source_volume_id,
        )
        return answer_of(self._host.volumes.CreateVolume, request)

    def extend(self, volume_id: str, size_bytes: int) -> Answer:
        request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size_bytes)
        return answer_of(self._host.volumes.ExtendVolume, request)

    def delete(self, volume_id: str) -> Answer:
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        return answer_of(self._host.volumes.DeleteVolume, request)

    def snapshot(self, snapshot_id: str, volume_id: str) -> Answer:
        request = volume_pb2.CreateSnapshotRequest(snapshot_id=snapshot_id, volume_id=volume_id)
        return answer_of(self._host.volumes.CreateSnapshot, request)

    def delete_snapshot(self, snapshot_id: str) -> Answer:
        request = volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        return answer_of(self._host.volumes.DeleteSnapshot, request)

    def adopt(self, volume_id: str, lv_name: str, pool: str = "thick") -> Answer:
        request = volume_pb2.AdoptVolumeRequest(volume_id=volume_id, pool=pool, lv_name=lv_name)
        return answer_of(self._host.volumes.AdoptVolume, request)

    def release(self, volume_id: str, lv_name: str = "") -> Answer:
        request = volume_pb2.ReleaseVolumeRequest(volume_id=volume_id, lv_name=lv_name)
        return answer_of(self._host.volumes.ReleaseVolume, request)

    def reconcile(self) -> Answer:
        return answer_of(self._host.hosts.Reconcile, host_pb2.ReconcileRequest())

    def export(self, volume_id: str) -> Answer:
        request = export_pb2.CreateExportRequest(volume_id=volume_id)
        return answer_of(self._host.exports.CreateExport, request)

    def unexport(self, volume_id: str) -> Answer:
        request = export_pb2.RemoveExportRequest(volume_id=volume_id)
        return answer_of(self._host.exports.RemoveExport, request)

    def attach(self, volume_id: str, host: str = "a", attachment_id: str = "one") -> Answer:
        request = export_pb2.InitializeConnectionRequest(
            volume_id=volume_id, attachment_id=attachment_id, connector=self._host.connector(host)
        )
        return answer_of(self._host.exports.InitializeConnection, request)

    def detach(self, volume_id: str, attachment_id: str = "one") -> Answer:
        request = export_pb2.TerminateConnectionRequest(
            volume_id=volume_id, attachment_id=attachment_id
        )
        return answer_of(self._host.exports.TerminateConnection, request)


def reasons(answers: Iterable[Answer]) -> list[str]:
    return sorted(reason for reason, _ in answers)
