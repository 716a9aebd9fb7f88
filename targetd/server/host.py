"""HostService."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import psutil

from targetd import __version__, flight
from targetd.api.v1 import host_pb2, host_pb2_grpc
from targetd.model import PoolConfig
from targetd.naming import Naming
from targetd.operations import Operations
from targetd.reconcile import Reconciler
from targetd.server.convert import flight_message, operation_message, timestamp
from targetd.server.deadline import deadline_of
from targetd.server.watch import Watching
from targetd.validation import Violations

OPERATION_ID_LENGTH_MAX = 64
CAPABILITIES = (
    "adopt",
    "chap",
    "clone",
    "extend",
    "multi-attach",
    "mutual-chap",
    "read-only",
    "snapshot",
)


class HostService(host_pb2_grpc.HostServiceServicer):
    def __init__(
        self,
        pools: tuple[PoolConfig, ...],
        naming: Naming,
        lock_domain_id: str,
        operations: Operations,
        reconciler: Reconciler,
        watching: Watching,
    ) -> None:
        self._pools = pools
        self._naming = naming
        self._lock_domain_id = lock_domain_id
        self._operations = operations
        self._reconciler = reconciler
        self._watching = watching
        self._started = datetime.now(UTC)

    def GetHost(
        self, request: host_pb2.GetHostRequest, context: grpc.ServicerContext
    ) -> host_pb2.Host:
        memory = psutil.virtual_memory()
        provisionings = {pool.provisioning.value for pool in self._pools}
        return host_pb2.Host(
            version=__version__,
            hostname=socket.gethostname(),
            portals=self._naming.portals,
            iqn_prefix=self._naming.iqn_prefix,
            capabilities=sorted(provisionings.union(CAPABILITIES)),
            lock_domain_id=self._lock_domain_id,
            kernel_release=platform.release(),
            start_time=timestamp(self._started),
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
        )

    def Watch(
        self, request: host_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.WatchResponse]:
        return self._watching.watch(context)

    def GetOperation(
        self, request: host_pb2.GetOperationRequest, context: grpc.ServicerContext
    ) -> host_pb2.Operation:
        _check_operation_id(request.operation_id)
        return operation_message(self._operations.get(request.operation_id))

    def WatchOperation(
        self, request: host_pb2.WatchOperationRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.Operation]:
        _check_operation_id(request.operation_id)
        return self._watching.watch_operation(request.operation_id, context)

    def Reconcile(
        self, request: host_pb2.ReconcileRequest, context: grpc.ServicerContext
    ) -> host_pb2.ReconcileResponse:
        if request.volume_id:
            violations = Violations()
            violations.uuid("volume_id", request.volume_id)
            violations.raise_if_any()
            report = self._reconciler.run_one(request.volume_id, deadline_of(context))
        else:
            report = self._reconciler.run_on_request()
        return host_pb2.ReconcileResponse(
            exports_checked=report.checked,
            drifts=[host_pb2.Drift(volume_id=volume, what=what) for volume, what in report.drifts],
            degraded_volume_ids=report.degraded,
        )

    def GetFlightRecord(
        self, request: host_pb2.GetFlightRecordRequest, context: grpc.ServicerContext
    ) -> host_pb2.FlightRecord:
        if request.volume_id:
            violations = Violations()
            violations.uuid("volume_id", request.volume_id)
            violations.raise_if_any()
        entries = flight.entries(request.volume_id)
        return host_pb2.FlightRecord(entries=map(flight_message, entries))


def _check_operation_id(operation_id: str) -> None:
    violations = Violations()
    violations.check(
        0 < len(operation_id) <= OPERATION_ID_LENGTH_MAX and operation_id.isprintable(),
        "operation_id",
        "is not an id that a call returned",
    )
    violations.raise_if_any()
