"""HostService."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import psutil

from targetd import __version__
from targetd.api.v1 import host_pb2, host_pb2_grpc
from targetd.model import PoolConfig
from targetd.operations import Wipes
from targetd.server.convert import operation_message, timestamp
from targetd.validation import Violations

OPERATION_ID_LENGTH_MAX = 64


class HostService(host_pb2_grpc.HostServiceServicer):
    def __init__(
        self,
        pools: tuple[PoolConfig, ...],
        portals: tuple[str, ...],
        iqn_prefix: str,
        lock_domain_id: str,
        wipes: Wipes,
    ) -> None:
        self._pools = pools
        self._portals = portals
        self._iqn_prefix = iqn_prefix
        self._lock_domain_id = lock_domain_id
        self._wipes = wipes
        self._started = datetime.now(UTC)

    def GetHost(
        self, request: host_pb2.GetHostRequest, context: grpc.ServicerContext
    ) -> host_pb2.Host:
        memory = psutil.virtual_memory()
        provisionings = sorted({pool.provisioning.value for pool in self._pools})
        return host_pb2.Host(
            version=__version__,
            hostname=socket.gethostname(),
            portals=self._portals,
            iqn_prefix=self._iqn_prefix,
            capabilities=[*provisionings, "chap", "extend", "multi-attach", "read-only"],
            lock_domain_id=self._lock_domain_id,
            kernel_release=platform.release(),
            start_time=timestamp(self._started),
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
        )

    def Watch(
        self, request: host_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.WatchResponse]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Watch is not built yet; poll the lists")
        yield host_pb2.WatchResponse()

    def GetOperation(
        self, request: host_pb2.GetOperationRequest, context: grpc.ServicerContext
    ) -> host_pb2.Operation:
        violations = Violations()
        violations.check(
            0 < len(request.operation_id) <= OPERATION_ID_LENGTH_MAX
            and request.operation_id.isprintable(),
            "operation_id",
            "is not an id that DeleteVolume returned",
        )
        violations.raise_if_any()
        return operation_message(self._wipes.get(request.operation_id))

    def WatchOperation(
        self, request: host_pb2.WatchOperationRequest, context: grpc.ServicerContext
    ) -> Iterator[host_pb2.Operation]:
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "WatchOperation is not built yet; poll GetOperation"
        )
        yield host_pb2.Operation()
