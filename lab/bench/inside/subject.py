"""The daemon as the bench drives it: the one module that knows how it is put together.

The daemon is whole: its engines, records, workers and gRPC server. Calls go
straight to the handlers that the server calls, so that their time is the
server's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast
from unittest import mock

import grpc

import targetd.daemon
from lab.bench.inside.population import initiator
from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.config import Config, TlsConfig
from targetd.daemon import Daemon
from targetd.engines.interface import LvmEngine
from targetd.engines.lio import Lio
from targetd.model import PoolConfig
from targetd.reconcile import Reconciler
from targetd.server.exports import ExportService
from targetd.server.host import HostService
from targetd.server.serve import Server
from targetd.server.volumes import VolumeService

SOCKET = Path("/run/bench/targetd.sock")
CALL_SECONDS = 300.0
PAGE_SIZE = 1000


def config(
    state: Path,
    portal_address: str,
    pools: Sequence[PoolConfig],
    listen: str = "",
    tls: TlsConfig | None = None,
) -> Config:
    return Config(
        pools=tuple(pools),
        state_directory=state,
        socket=SOCKET,
        portal_addresses=(portal_address,),
        listen=listen,
        tls=tls,
    )


class _Call:
    """As much of a gRPC context as the handlers look at."""

    def time_remaining(self) -> float:
        return CALL_SECONDS

    def add_callback(self, callback: object) -> bool:
        return True


CALL = cast(grpc.ServicerContext, _Call())


class _KeepingServer(Server):
    """Remembers the handlers that it serves."""

    def add(self, volumes: VolumeService, exports: ExportService, host: HostService) -> None:
        self.volumes, self.exports, self.host = volumes, exports, host
        super().add(volumes, exports, host)


class Subject:
    """Once started it is reconciled and serves; as a context it is stopped at the end."""

    def __init__(self, settings: Config, lvm: LvmEngine) -> None:
        self._settings, self._lvm = settings, lvm
        self._daemon: Daemon | None = None
        self.reconcile_seconds = 0.0
        self.start_seconds = 0.0

    def start(self) -> None:
        reconcile = Reconciler.start

        def timed_reconcile(reconciler: Reconciler, progress: Callable[[str], None]) -> None:
            started = time.perf_counter()
            reconcile(reconciler, progress)
            self.reconcile_seconds = time.perf_counter() - started

        started = time.perf_counter()
        with (
            mock.patch.object(targetd.daemon, "Server", _KeepingServer),
            mock.patch.object(Reconciler, "start", timed_reconcile),
        ):
            self._daemon = daemon = Daemon(self._settings, self._lvm, Lio())
            daemon.start()
        # It asks LVM from time to time, which is nothing that an attach costs.
        daemon.health.stop()
        self.start_seconds = time.perf_counter() - started
        server = cast(_KeepingServer, daemon._server)
        self._volumes, self._exports, self._host = server.volumes, server.exports, server.host

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    # Exports

    def create_export(self, volume_id: str) -> str:
        """Returns the target's IQN."""
        request = export_pb2.CreateExportRequest(volume_id=volume_id)
        return self._exports.CreateExport(request, CALL).target_iqn

    def initialize(self, volume_id: str, number: int) -> None:
        request = initialize_request(volume_id, number)
        self._exports.InitializeConnection(request, CALL)

    def terminate(self, volume_id: str) -> None:
        request = export_pb2.TerminateConnectionRequest(
            volume_id=volume_id, attachment_id=attachment_id(volume_id)
        )
        self._exports.TerminateConnection(request, CALL)

    def remove_export(self, volume_id: str) -> None:
        request = export_pb2.RemoveExportRequest(volume_id=volume_id)
        self._exports.RemoveExport(request, CALL)

    def list_connections(self) -> int:
        """Reads all pages; returns how many there are."""
        token, found = "", 0
        while True:
            request = export_pb2.ListConnectionsRequest(page_size=PAGE_SIZE, page_token=token)
            answer = self._exports.ListConnections(request, CALL)
            found += len(answer.connections)
            token = answer.next_page_token
            if not token:
                return found

    # Volumes

    def create_volume(self, volume_id: str, pool: str, size_bytes: int) -> None:
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id, pool=pool, size_bytes=size_bytes
        )
        self._volumes.CreateVolume(request, CALL)

    def delete_volume(self, volume_id: str) -> str:
        """Returns the operation that wipes it, or an empty text."""
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        return self._volumes.DeleteVolume(request, CALL).operation_id

    def running(self, operation_id: str) -> bool:
        request = host_pb2.GetOperationRequest(operation_id=operation_id)
        operation = self._host.GetOperation(request, CALL)
        return operation.state == host_pb2.OPERATION_STATE_RUNNING


def attachment_id(volume_id: str) -> str:
    return f"bench-{volume_id}"


def initialize_request(volume_id: str, number: int) -> export_pb2.InitializeConnectionRequest:
    return export_pb2.InitializeConnectionRequest(
        volume_id=volume_id,
        attachment_id=attachment_id(volume_id),
        connector=export_pb2.Connector(initiator=initiator(number), host=f"host{number}"),
        access_mode=export_pb2.ACCESS_MODE_RW,
    )


def resident_mebibytes() -> float:
    """Of this process, as the kernel counts it."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)
