"""lunctl flight-record, of a daemon on simulated engines and of a made-up record."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from unittest.mock import patch

import pytest

from targetd.api.v1 import host_pb2
from targetd.server.host import HostService
from tests.hosts import Host, SimulatedBacking
from tests.lunctl import Lunctl

KIND = host_pb2.FlightEntry
# Of no other test: the recorder is the whole process's.
VOLUME_ID = str(uuid.uuid4())


@pytest.fixture
def lunctl(simulated_backing: SimulatedBacking) -> Lunctl:
    return Lunctl(simulated_backing.endpoint)


@pytest.fixture
def entries(simulated_backing: SimulatedBacking) -> Iterator[list[host_pb2.FlightEntry]]:
    """What the daemon answers."""
    made: list[host_pb2.FlightEntry] = []
    for entry in (
        host_pb2.FlightEntry(
            kind=KIND.KIND_COMMAND, what="lvm lvcreate", object="-n a storage", volume_id="a"
        ),
        host_pb2.FlightEntry(
            kind=KIND.KIND_CONFIGFS, what="mkdir", object="iscsi/b", failure="no\x1b[2Jspace"
        ),
        host_pb2.FlightEntry(kind=KIND.KIND_CONFIGFS, what="rmdir", object="iscsi/c", running=True),
    ):
        entry.start_time.FromSeconds(1_790_000_000)
        entry.duration.FromTimedelta(timedelta(milliseconds=103))
        made.append(entry)
    host = Host(simulated_backing)
    with patch.object(
        HostService, "GetFlightRecord", lambda *_: host_pb2.FlightRecord(entries=made)
    ):
        simulated_backing.restart()
        yield made
    host.close()


def test_for_people(lunctl: Lunctl, entries: list[host_pb2.FlightEntry]) -> None:
    first, second, third = lunctl.run("flight-record").stdout.splitlines()
    assert first.endswith("    0.103 s  lvm lvcreate -n a storage")
    assert second.endswith("mkdir iscsi/b  failed: no?[2Jspace")
    assert third.endswith("rmdir iscsi/c  running")


def test_as_json(lunctl: Lunctl, entries: list[host_pb2.FlightEntry]) -> None:
    first, *_ = lunctl.json("flight-record")["entries"]
    assert first["duration"] == "0.103s" and first["kind"] == "KIND_COMMAND"


def test_of_one_volume(lunctl: Lunctl) -> None:
    assert lunctl.json("flight-record", "--volume", VOLUME_ID) == {"entries": []}
    assert "nothing in the record" in lunctl.run("flight-record", "--volume", VOLUME_ID).stderr
    lunctl.run("flight-record", "--volume", "nix", status=2)
