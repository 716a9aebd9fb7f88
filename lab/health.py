"""Ask a daemon for its health over a unix socket: ``python -m lab.health PATH``."""

from __future__ import annotations

import sys
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def status_now(channel: grpc.Channel, timeout_seconds: float = 10.0) -> str:
    """The daemon's word, like "SERVING", as soon as it answers at all."""
    # The published types of the health stub lack its methods.
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(
        health_pb2.HealthCheckRequest(), timeout=timeout_seconds, wait_for_ready=True
    )
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def status_of(channel: grpc.Channel, timeout_seconds: float) -> str:
    """The daemon's word, once it has come up and serves, or when the time is over."""
    end = time.monotonic() + timeout_seconds
    while True:
        status = status_now(channel, max(0.1, end - time.monotonic()))
        # While it reconciles it listens already, and says NOT_SERVING.
        if status == "SERVING" or time.monotonic() > end - 1:
            return status
        time.sleep(0.1)


def main() -> None:
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        print(status_of(channel, 10.0))


if __name__ == "__main__":
    main()
