"""A client that is slow, stuck, greedy or hostile costs nobody else anything."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, cast

import grpc
import pytest
from targetd_driver.channel import KEEPALIVE_SECONDS

from targetd.api.v1 import export_pb2, export_pb2_grpc, host_pb2, host_pb2_grpc, volume_pb2
from targetd.api.v1.volume_pb2_grpc import VolumeServiceStub
from targetd.roles import Role
from targetd.server import limits, serve
from tests.answers import reason_of
from tests.hosts import Host, SimulatedBacking, client_files, refused_with
from tests.raw_http2 import RawClient, over_tls, over_unix

SECONDS = 30.0
WATCH = "/targetd.v1.HostService/Watch"
LIST_VOLUMES = "/targetd.v1.VolumeService/ListVolumes"
# So that several channels to one place are several connections.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture
def host(simulated_backing: SimulatedBacking) -> Iterator[Host]:
    made = Host(simulated_backing)
    yield made
    made.close()


def with_options(**changed: int) -> tuple[tuple[str, int], ...]:
    """The server's options with some in other sizes; each must be there."""
    names = {name.rpartition(".")[2]: name for name, _ in limits.OPTIONS}
    values = dict(limits.OPTIONS) | {names[key]: value for key, value in changed.items()}
    return tuple(values.items())


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


def attaches(host: Host) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    host.detach(volume_id)
    host.remove_export(volume_id)


def eventually(check: Any) -> None:
    end = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_a_watcher_that_never_reads_holds_up_nobody(
    host: Host, simulated_backing: SimulatedBacking
) -> None:
    volumes = [host.create() for _ in range(50)]
    stuck = RawClient(over_unix(simulated_backing.socket))
    stuck.call(WATCH)
    eventually(lambda: watchers(simulated_backing) == 1)
    # Far more than the connection takes unread.
    for _ in range(15):
        for volume_id in volumes:
            host.attach(volume_id)
            host.detach(volume_id)
    stream = host.hosts.Watch(host_pb2.WatchRequest(), timeout=SECONDS)
    assert any(told.synced for told in stream)
    new = host.create()
    assert any(told.volume.volume_id == new for told in stream)
    stream.cancel()
    assert watchers(simulated_backing) >= 1
    # What waits for it is one note for each thing that changed.
    (listener, *_) = simulated_backing.daemon.changes._listeners
    assert len(listener._pending) <= 3 * len(volumes) + 3
    stuck.close()
    eventually(lambda: watchers(simulated_backing) == 0)


def watchers(backing: SimulatedBacking) -> int:
    return len(backing.daemon.changes._listeners)


def test_one_client_watches_so_often_only(host: Host, simulated_backing: SimulatedBacking) -> None:
    endpoint = simulated_backing.endpoint_for(Role.VIEWER)
    with endpoint.channel() as channel:
        hosts = host_pb2_grpc.HostServiceStub(channel)
        request = host_pb2.WatchRequest()
        streams = [hosts.Watch(request) for _ in range(limits.STREAMS_PER_CLIENT)]
        for stream in streams:
            next(stream)
        with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
            next(hosts.Watch(request, timeout=SECONDS))
        assert reason_of(caught[0]) == "TOO_MANY_CALLS"
        hosts.GetHost(host_pb2.GetHostRequest(), timeout=SECONDS)
        other = host.hosts.Watch(request, timeout=SECONDS)
        next(other)
        other.cancel()
        streams[0].cancel()
        eventually(lambda: watchers(simulated_backing) < limits.STREAMS_PER_CLIENT)
        again = hosts.Watch(request, timeout=SECONDS)
        next(again)


def test_a_client_that_died_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = with_options(keepalive_time_ms=300, keepalive_timeout_ms=300, ping_timeout_ms=300)
    monkeypatch.setattr(serve, "OPTIONS", options)
    backing = SimulatedBacking(folder)
    files = client_files(backing.certificates, "dead", Role.VIEWER)
    # It never answers a ping, as a host whose power was cut.
    dead = [
        RawClient(over_tls(backing.daemon.port, files)),
        RawClient(over_unix(backing.socket)),
    ]
    with backing.endpoint.channel() as channel:
        alive = host_pb2_grpc.HostServiceStub(channel).Watch(host_pb2.WatchRequest())
        next(alive)
        for client in dead:
            client.call(WATCH)
        eventually(lambda: watchers(backing) == 3)
        eventually(lambda: watchers(backing) == 1)
        assert alive.is_active()
    for client in dead:
        client.close()
    backing.close()


def test_the_drivers_pings_are_allowed() -> None:
    assert KEEPALIVE_SECONDS > limits.CLIENT_PING_SECONDS_MIN


def test_a_client_that_pings_too_often_is_sent_away(folder: Path) -> None:
    backing = SimulatedBacking(folder)
    rude = RawClient(over_unix(backing.socket))
    # It may be sent away before its last.
    with suppress(BrokenPipeError):
        for _ in range(20):
            rude.ping()
    assert rude.was_sent_away()
    rude.close()
    host = Host(backing)
    attaches(host)
    host.close()
    backing.close()


def test_connections_that_never_speak(host: Host, simulated_backing: SimulatedBacking) -> None:
    address = ("127.0.0.1", simulated_backing.daemon.port)
    silent = [socket.create_connection(address, SECONDS) for _ in range(300)]
    silent += [over_unix(simulated_backing.socket) for _ in range(100)]
    attaches(host)
    with simulated_backing.endpoint_for(Role.VIEWER).channel() as channel:
        VolumeServiceStub(channel).ListVolumes(volume_pb2.ListVolumesRequest(), timeout=SECONDS)
    for connection in silent:
        connection.close()


def test_too_many_connections_are_closed_and_the_silent_ones_do_not_last(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = with_options(max_allowed_incoming_connections=8, server_handshake_timeout_ms=1500)
    monkeypatch.setattr(serve, "OPTIONS", options)
    backing = SimulatedBacking(folder)
    address = ("127.0.0.1", backing.daemon.port)
    silent = [socket.create_connection(address, SECONDS) for _ in range(8)]
    more = socket.create_connection(address, SECONDS)
    assert was_closed(more)
    # This host's own clients have a listener of their own.
    host = Host(backing)
    attaches(host)
    host.close()
    assert all(was_closed(connection) for connection in silent)
    with backing.endpoint_for(Role.VIEWER).channel() as channel:
        stub = VolumeServiceStub(channel)
        stub.ListVolumes(volume_pb2.ListVolumesRequest(), timeout=SECONDS, wait_for_ready=True)
    for connection in (*silent, more):
        connection.close()
    backing.close()


def was_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_what_is_too_large_is_refused_and_the_connection_goes_on(host: Host) -> None:
    big = "x" * (limits.RECEIVE_BYTES_MAX + 1)
    connector = export_pb2.Connector(host=big)
    with refused_with(grpc.StatusCode.RESOURCE_EXHAUSTED):
        host.exports.ValidateConnector(export_pb2.ValidateConnectorRequest(connector=connector))
    for size in (limits.HEADER_BYTES_MAX, 10 * limits.HEADER_BYTES_MAX):
        with pytest.raises(grpc.RpcError) as caught:
            host.hosts.GetHost(
                host_pb2.GetHostRequest(), metadata=(("x", "y" * size),), timeout=SECONDS
            )
        code = cast(grpc.Call, caught.value).code()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    attaches(host)


def test_a_client_with_more_calls_than_there_are_threads(
    host: Host, simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = simulated_backing.daemon.catalog
    find, go_on, stuck_id = catalog.volume, threading.Event(), str(uuid.uuid4())

    def volume(volume_id: str) -> Any:
        if volume_id == stuck_id:
            assert go_on.wait(SECONDS)
        return find(volume_id)

    monkeypatch.setattr(catalog, "volume", volume)
    endpoint = simulated_backing.endpoint_for(Role.ADMIN)
    files = endpoint.tls
    assert files is not None
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    channels = [
        grpc.secure_channel(endpoint.address, credentials, OWN_CONNECTION) for _ in range(6)
    ]
    request = volume_pb2.GetVolumeRequest(volume_id=stuck_id)
    calls: list[Any] = [
        VolumeServiceStub(channels[number % 6]).GetVolume.future(request, timeout=SECONDS)
        for number in range(limits.THREADS + 100)
    ]
    most = simulated_backing.calls_per_client
    eventually(lambda: sum(call.done() for call in calls) == len(calls) - most)
    # Everything else goes on, of others on the same host too.
    attaches(host)
    with simulated_backing.endpoint_for(Role.VIEWER).channel() as other:
        VolumeServiceStub(other).ListVolumes(volume_pb2.ListVolumesRequest(), timeout=SECONDS)
    go_on.set()
    codes = Counter(call.code() for call in calls)
    assert codes == {
        grpc.StatusCode.NOT_FOUND: most,
        grpc.StatusCode.RESOURCE_EXHAUSTED: len(calls) - most,
    }
    refused = next(one for one in calls if one.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert reason_of(refused) == "TOO_MANY_CALLS"
    stub = VolumeServiceStub(channels[0])
    with refused_with(grpc.StatusCode.NOT_FOUND):
        stub.GetVolume(request, timeout=SECONDS)
    for channel in channels:
        channel.close()


class FewThreads(SimulatedBacking):
    options = MappingProxyType({"calls_per_client": 8})


def test_calls_that_are_only_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC gives a thread to headers alone: one host must not have them all."""
    monkeypatch.setattr(serve, "THREADS", 24)
    backing = FewThreads(folder)
    files = client_files(backing.certificates, "stuck", Role.VIEWER)
    stuck = [RawClient(over_tls(backing.daemon.port, files, source="127.0.0.2")) for _ in range(2)]
    for client in stuck:
        for _ in range(100):
            client.begin(LIST_VOLUMES)
    eventually(lambda: threads_of_calls() >= 8 + 16)
    host = Host(backing)
    # Before the silence of the stuck ones ends their connections.
    host.volumes.ListVolumes(volume_pb2.ListVolumesRequest(), timeout=10)
    attaches(host)
    host.close()
    with backing.endpoint_for(Role.ADMIN).channel() as channel:
        exports = export_pb2_grpc.ExportServiceStub(channel)
        exports.ListExports(export_pb2.ListExportsRequest(), timeout=SECONDS)
    for client in stuck:
        client.close()
    with backing.endpoint_for(Role.ADMIN).channel() as channel:
        VolumeServiceStub(channel).ListVolumes(volume_pb2.ListVolumesRequest(), timeout=SECONDS)
    backing.close()


def threads_of_calls() -> int:
    return sum(one.name.startswith(("rpc", "late-rpc")) for one in threading.enumerate())


def test_calls_beyond_all_measure_are_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targetd.server.threads.WAITING_MAX", 50)
    backing = FewThreads(folder)
    server: Any = backing.daemon._server._grpc
    stuck = [RawClient(over_unix(backing.socket)) for _ in range(2)]
    for client in stuck:
        for _ in range(100):
            client.begin(LIST_VOLUMES)
    eventually(lambda: server._state.active_rpc_count >= 24)
    # Time for the rest to be seen, and dropped.
    time.sleep(1.0)
    eventually(lambda: server._state.active_rpc_count <= 60)
    for client in stuck:
        client.close()
    host = Host(backing)
    eventually(lambda: server._state.active_rpc_count == 0)
    attaches(host)
    host.close()
    backing.close()
