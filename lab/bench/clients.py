"""Clients outside the node: a program that runs on the lab's network.

``python -m lab.bench.clients ADDRESS FOLDER --clients 64 --first N --each N`` prints
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc

from lab.bench.inside.population import volume_id
from lab.bench.inside.subject import attachment_id, initialize_request
from targetd.api.v1 import export_pb2, export_pb2_grpc

READY_SECONDS = 60.0
CALL_SECONDS = 120.0


@dataclass
class Outcome:
    clients: int
    seconds: float = 0.0
    attach_seconds: list[float] = field(default_factory=list)
    detach_seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Client(threading.Thread):
    """One client with a connection of its own and volumes that no other has."""

    def __init__(
        self, channel: grpc.Channel, numbers: range, start: threading.Barrier, outcome: Outcome
    ) -> None:
        super().__init__(daemon=True)
        self._stub = export_pb2_grpc.ExportServiceStub(channel)
        self._numbers, self._barrier, self._outcome = numbers, start, outcome

    def run(self) -> None:
        for do, seconds in (
            (self._attach, self._outcome.attach_seconds),
            (self._detach, self._outcome.detach_seconds),
        ):
            self._barrier.wait()
            for number in self._numbers:
                started = time.perf_counter()
                try:
                    do(number)
                except grpc.RpcError as error:
                    self._outcome.errors.append(str(error))
                seconds.append(time.perf_counter() - started)
            self._barrier.wait()

    def _attach(self, number: int) -> None:
        volume = volume_id(number)
        self._stub.CreateExport(
            export_pb2.CreateExportRequest(volume_id=volume), timeout=CALL_SECONDS
        )
        self._stub.InitializeConnection(initialize_request(volume, number), timeout=CALL_SECONDS)

    def _detach(self, number: int) -> None:
        volume = volume_id(number)
        self._stub.TerminateConnection(
            export_pb2.TerminateConnectionRequest(
                volume_id=volume, attachment_id=attachment_id(volume)
            ),
            timeout=CALL_SECONDS,
        )
        self._stub.RemoveExport(
            export_pb2.RemoveExportRequest(volume_id=volume), timeout=CALL_SECONDS
        )


def attach_all(channels: list[grpc.Channel], first: int, each: int) -> Outcome:
    """Every client attaches its volumes one after the other; then all detach again."""
    outcome = Outcome(len(channels))
    barrier = threading.Barrier(len(channels) + 1)
    for index, channel in enumerate(channels):
        start = first + index * each
        Client(channel, range(start, start + each), barrier, outcome).start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    outcome.seconds = time.perf_counter() - started
    barrier.wait()
    barrier.wait()
    return outcome


def connected(address: str, folder: Path, count: int) -> list[grpc.Channel]:
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.pem").read_bytes(),
        (folder / "client.key").read_bytes(),
        (folder / "client.pem").read_bytes(),
    )
    # Without it all channels of a process share one connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.secure_channel(address, credentials, options) for _ in range(count)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(READY_SECONDS)
    return channels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--each", type=int, required=True)
    given = parser.parse_args()
    channels = connected(given.address, given.folder, given.clients)
    outcome = attach_all(channels, given.first, given.each)
    for channel in channels:
        channel.close()
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
