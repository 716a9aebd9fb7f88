"""A storage host itself: what it is, its pools, whether it serves, its long work."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from targetd.api.v1 import host_pb2, host_pb2_grpc, volume_pb2, volume_pb2_grpc
from targetd_driver.calls import Calls
from targetd_driver.errors import Late


@dataclass(frozen=True)
class Host:
    version: str
    hostname: str
    # "address:port", as handed to initiators.
    portals: tuple[str, ...]
    iqn_prefix: str
    capabilities: tuple[str, ...]
    # Stable: consumers that must not work on this host's targets in parallel lock on it.
    lock_domain_id: str


@dataclass(frozen=True)
class Pool:
    name: str
    thin: bool
    total_bytes: int
    free_bytes: int
    # The sum of the sizes promised to volumes.
    provisioned_bytes: int
    # Thin pools only: how full they are.
    data_percent: float
    metadata_percent: float


class OperationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    # With an error; the host tries it again later.
    FAILED = "failed"
    # Ended because its volume was deleted.
    CANCELLED = "cancelled"


OPERATION_STATES = {
    host_pb2.OPERATION_STATE_RUNNING: OperationState.RUNNING,
    host_pb2.OPERATION_STATE_DONE: OperationState.DONE,
    host_pb2.OPERATION_STATE_FAILED: OperationState.FAILED,
    host_pb2.OPERATION_STATE_CANCELLED: OperationState.CANCELLED,
}


@dataclass(frozen=True)
class Operation:
    """A wipe or a copy, which goes on after its call was answered."""

    operation_id: str
    state: OperationState
    volume_id: str
    done_bytes: int
    total_bytes: int
    error: str

    @property
    def ended(self) -> bool:
        """For good, or until the host tries it again."""
        return self.state is not OperationState.RUNNING


class Operations:
    """Safe for use by several threads. Every call raises DriverError or a kind of it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = host_pb2_grpc.HostServiceStub(calls.channel)

    def get(self, operation_id: str) -> Operation:
        """Raises NotFound, also for one that ended long ago."""
        request = host_pb2.GetOperationRequest(operation_id=operation_id)
        return _operation(self._calls.call(self._stub.GetOperation, request))

    def wait(self, operation_id: str, seconds: float) -> Operation:
        """As it is when it has ended, or after that time. Raises NotFound.

        Holds one of the few streams that a host gives to a client: for many, use ``get``.
        """
        request = host_pb2.WatchOperationRequest(operation_id=operation_id)
        with suppress(Late):
            for message in self._calls.stream(self._stub.WatchOperation, request, seconds):
                operation = _operation(message)
                if operation.ended:
                    return operation
        return self.get(operation_id)


class StorageHost:
    """Safe for use by several threads. Every call raises DriverError or a kind of it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = host_pb2_grpc.HostServiceStub(calls.channel)
        self._volumes = volume_pb2_grpc.VolumeServiceStub(calls.channel)
        # The published types of the health stub lack its methods.
        self._health: Any = health_pb2_grpc.HealthStub(calls.channel)

    def get(self) -> Host:
        message = self._calls.call(self._stub.GetHost, host_pb2.GetHostRequest())
        return Host(
            version=message.version,
            hostname=message.hostname,
            portals=tuple(message.portals),
            iqn_prefix=message.iqn_prefix,
            capabilities=tuple(message.capabilities),
            lock_domain_id=message.lock_domain_id,
        )

    def pools(self) -> list[Pool]:
        """As LVM says now: some of the host's processes, so not for every operation."""
        answer = self._calls.call(self._volumes.ListPools, volume_pb2.ListPoolsRequest())
        return [_pool(message) for message in answer.pools]

    def health(self) -> str:
        """What grpc.health.v1 says of the daemon as a whole: SERVING or NOT_SERVING."""
        answer = self._calls.call(self._health.Check, health_pb2.HealthCheckRequest())
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _pool(message: volume_pb2.Pool) -> Pool:
    return Pool(
        name=message.name,
        thin=message.provisioning == volume_pb2.PROVISIONING_THIN,
        total_bytes=message.total_bytes,
        free_bytes=message.free_bytes,
        provisioned_bytes=message.provisioned_bytes,
        data_percent=message.data_percent,
        metadata_percent=message.metadata_percent,
    )


def _operation(message: host_pb2.Operation) -> Operation:
    return Operation(
        operation_id=message.operation_id,
        state=OPERATION_STATES.get(message.state, OperationState.RUNNING),
        volume_id=message.volume_id,
        done_bytes=message.done_bytes,
        total_bytes=message.total_bytes,
        error=message.error,
    )
