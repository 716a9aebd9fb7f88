"""Ask a daemon for its health over a unix socket: ``python -m lab.health PATH``."""

from __future__ import annotations

import sys
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def status_of(channel: grpc.Channel, timeout_seconds: float) -> str:
    """The daemon's word, like "SERVING"; waits for the daemon to come up and to serve."""
    # The published types of the health stub lack its methods.
    stub: Any = health_pb2_grpc.HealthStub(channel)
    end = time.monotonic() + timeout_seconds
    while True:
        answer = stub.Check(
            health_pb2.HealthCheckRequest(),
            timeout=max(0.0, end - time.monotonic()),
            wait_for_ready=True,
        )
        # While it reconciles it listens already, and says NOT_SERVING.
        if answer.status == health_pb2.HealthCheckResponse.SERVING or time.monotonic() > end - 1:
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
        time.sleep(0.1)


def main() -> None:
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        print(status_of(channel, 10.0))


if __name__ == "__main__":
    main()
