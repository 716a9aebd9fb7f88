"""Ask a daemon for its health over a unix socket: ``python -m lab.health PATH``."""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def status_of(channel: grpc.Channel, timeout_seconds: float) -> str:
    """The daemon's word, like "SERVING"; waits for the daemon to come up."""
    # The published types of the health stub lack its methods.
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(
        health_pb2.HealthCheckRequest(), timeout=timeout_seconds, wait_for_ready=True
    )
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> None:
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        print(status_of(channel, 10.0))


if __name__ == "__main__":
    main()
