"""The service as a program that listens: sockets, TLS, slow clients, too much work, its end."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest

from attachd import proofs
from attachd.config import Config, TlsFiles
from attachd.errors import RecordsUnavailable
from attachd.model import Caller, Volume
from attachd.rest import application, workers
from attachd.rest.connections import PatientProtocol
from attachd.rest.server import Server
from attachd.site import opened
from attachd.volumes import Volumes
from targetd import tls_authority
from targetd.errors import StartError
from targetd.watchdog import NotProved
from tests.attachd.served import NOAUTH, Api, Served, connector, refused, served

SOON = 0.3


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served() as made:
        yield made


@pytest.fixture
def api(place: Served) -> Iterator[Api]:
    with place.api() as made:
        yield made


def connected(place: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", place.service.server.port), timeout=30)


def is_left(channel: socket.socket) -> bool:
    """Waits for the other side to end the connection."""
    try:
        return channel.recv(1) == b""
    except ConnectionResetError:
        return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_served(place: Served, channel: socket.socket) -> bool:
    state = place.service.server.listeners[0]._server.server_state
    clients = [getattr(one, "client", None) for one in list(state.connections)]
    return channel.getsockname() in clients


# What is too much


def test_a_body_that_is_too_long_is_refused(place: Served, api: Api) -> None:
    long = b"x" * (application.BODY_BYTES_MAX + 1)
    path = f"{api.prefix}/volumes"
    refused(api.client.post(path, content=long), 413, "overLimit")
    # Not told before, as a chunked one.
    refused(api.client.post(path, content=iter([long])), 413, "overLimit")
    assert api.get("volumes")
    # It need not be sent to be refused.
    with connected(place) as channel:
        channel.sendall(
            b"POST /v3/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n"
        )
        assert channel.makefile("rb").read(12) == b"HTTP/1.1 413"


def test_a_query_that_is_too_long_is_refused(api: Api) -> None:
    params = {f"p{number}": "x" for number in range(application.PARAMS_MAX + 1)}
    refused(api.ask("GET", "volumes", **params), 400, "badRequest")


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /v3/", b"POST /v3/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"],
)
def test_a_client_that_does_not_say_all_is_left(place: Served, sent: bytes) -> None:
    with patch.object(PatientProtocol, "client_seconds", SOON), connected(place) as channel:
        channel.sendall(sent)
        assert is_left(channel)


def test_a_client_that_does_not_listen_is_left(place: Served, api: Api) -> None:
    for number in range(20):
        api.volume(metadata={f"k{key}": "x" * 255 for key in range(100)}, name=f"long {number}")
    request = f"GET {api.prefix}/volumes/detail HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with patch.object(PatientProtocol, "client_seconds", SOON), connected(place) as channel:
        # More than the buffers between both hold.
        channel.sendall(request * 50)
        until(lambda: not is_served(place, channel))
    for volume in api.get("volumes", **{"name~": "long"})["volumes"]:
        api.delete(f"volumes/{volume['id']}")


def test_a_client_that_takes_its_time_between_requests_is_kept(place: Served) -> None:
    client = http.client.HTTPConnection("127.0.0.1", place.service.server.port, timeout=30)
    for _ in range(2):
        client.request("GET", "/v3")
        assert client.getresponse().read()
        state = place.service.server.listeners[0]._server.server_state
        (served,) = [
            one
            for one in state.connections
            if isinstance(one, PatientProtocol) and one.client == client.sock.getsockname()
        ]
        assert served._reading is None and served._writing is None
    client.close()


def test_connections_are_counted(place: Served) -> None:
    with patch.object(PatientProtocol, "connections_max", 0), connected(place) as channel:
        assert is_left(channel)
    with connected(place) as channel:
        channel.sendall(b"GET /v3 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert channel.makefile("rb").read(12) == b"HTTP/1.1 200"


def test_what_hangs_keeps_nobody_from_looking(place: Served) -> None:
    """All threads for changes wait; reads are answered, and one change too many is refused."""
    hangs = threading.Event()
    small = replace(NOAUTH, threads=2)

    def create(self: Volumes, caller: Caller, new: object) -> Volume:
        hangs.wait(60)
        raise RecordsUnavailable("late")

    with (
        patch.object(workers, "WAITING_PER_THREAD", 1),
        served(small) as other,
        other.api() as api,
        patch.object(Volumes, "create", create),
        ThreadPoolExecutor() as clients,
    ):
        body = {"volume": {"size": 1}}
        waiting = [clients.submit(api.ask, "POST", "volumes", body) for _ in range(4)]
        try:
            until(lambda: other.service.application._changes._places._value == 0)
            assert api.get("volumes")["volumes"] == []
            answer = api.ask("POST", "volumes", body)
            refused(answer, 503, "serviceUnavailable")
            assert answer.headers["retry-after"] == "1"
        finally:
            hangs.set()
        for one in waiting:
            refused(one.result(), 503, "serviceUnavailable")


# What goes wrong


def test_what_nobody_foresaw_is_an_incident(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def get(*_: object) -> None:
        raise RuntimeError("the secret place")

    with patch.object(Volumes, "get", get):
        answer = api.ask("GET", "volumes/x")
    message = refused(answer, 500, "computeFault")
    assert "secret" not in answer.text
    incident = message.rstrip(".").rpartition(" ")[2]
    (told,) = [one for one in caplog.records if getattr(one, "incident", "") == incident]
    assert told.exc_info is not None and "the secret place" in str(told.exc_info[1])
    assert getattr(told, "request_id", "") == answer.headers["x-openstack-request-id"]


def test_a_database_that_does_not_answer_is_said(place: Served, api: Api) -> None:
    def check() -> None:
        raise RecordsUnavailable("the database does not answer")

    with patch.object(place.service.application, "_check", check):
        refused(api.client.get("/healthcheck"), 503, "serviceUnavailable")
        # It is an answer: a new start would not help.
        proofs.ask(place.service.server.listeners[0])


# What is told


def test_a_request_is_one_line_without_secrets(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    volume_id = api.volume()["id"]
    made = api.attachment(volume_id)
    answer = api.by("user:hidden", "/v3").ask("GET", "volumes", name="hidden")
    api.delete(f"attachments/{made['id']}")
    lines = [one for one in caplog.records if one.name == application.__name__]
    found = [one for one in lines if one.getMessage() == "GET /v3/volumes: 200"]
    assert found[-1].__dict__["request_id"] == answer.headers["x-openstack-request-id"]
    assert found[-1].__dict__["outcome"] == 200
    assert float(found[-1].__dict__["duration_ms"]) > 0
    assert found[-1].__dict__["peer"].startswith("127.0.0.1:")
    (removed,) = [one for one in lines if one.getMessage().startswith("DELETE")]
    assert removed.__dict__["attachment_id"] == made["id"]
    everything = " ".join(f"{one.getMessage()} {one.__dict__}" for one in lines)
    assert made["connection_info"]["auth_password"] not in everything
    assert "hidden" not in everything


def test_a_request_does_not_break_a_line(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refused(api.ask("GET", "volumes/a%0Ab%1B"), 404, "itemNotFound")
    (line,) = [one for one in caplog.records if one.name == application.__name__]
    assert line.getMessage() == f"GET {api.prefix}/volumes/a%0Ab%1B: 404"
    assert not hasattr(line, "volume_id")


# Sockets and TLS


def test_the_socket_is_for_its_group(tmp_path: Path) -> None:
    path = tmp_path / "attachd.sock"
    with served(replace(NOAUTH, listen="", socket=path)) as place:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://attachd/healthcheck").text == "OK"
            assert client.get("http://attachd/v3/p/volumes").json() == {"volumes": []}
        with pytest.raises(StartError, match=r"attachd\.sock"):
            Server(place.service.site.config, place.service.application, 1)
        assert path.exists(), "of the one that serves"
        proofs.ask(place.service.server.listeners[0])
    assert not path.exists()


def test_an_abandoned_socket_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "attachd.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with served(replace(NOAUTH, listen="", socket=path)):
        assert path.exists()
    path.write_text("somebody's")
    with pytest.raises(StartError, match=r"attachd\.sock"), served(replace(NOAUTH, socket=path)):
        pass
    assert path.read_text() == "somebody's"


def test_a_port_that_is_taken_is_said(place: Served) -> None:
    port = place.service.server.port
    taken = replace(NOAUTH, listen=f"127.0.0.1:{port}")
    with pytest.raises(StartError, match=str(port)), served(taken):
        pass


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    folder = tmp_path / "tls"
    tls_authority.init(folder)
    tls_authority.issue_server(folder, "server", ["127.0.0.1"])
    return folder


def with_tls(folder: Path) -> Config:
    return replace(NOAUTH, tls=TlsFiles(folder / "server.pem", folder / "server.key"))


def test_tls_is_served_and_taken_over_anew(authority: Path) -> None:
    with served(with_tls(authority)) as place:
        url = f"https://127.0.0.1:{place.service.server.port}"
        trusted = ssl.create_default_context(cafile=str(authority / "ca.pem"))
        versions = httpx.get(url, verify=trusted).json()["versions"]
        assert versions[0]["links"][1]["href"] == f"{url}/v3/"
        proofs.ask(place.service.server.listeners[0])
        with pytest.raises(httpx.HTTPError):
            httpx.get(url)
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http"))

        # Another authority's pair; and half a pair, which changes nothing.
        other = authority.parent / "other"
        tls_authority.init(other)
        tls_authority.issue_server(other, "server", ["127.0.0.1"])
        (authority / "server.pem").write_bytes((other / "server.pem").read_bytes())
        with pytest.raises(StartError, match=r"\[tls\]"):
            place.service.reload(place.service.site.config)
        assert httpx.get(url, verify=trusted).status_code == 300
        (authority / "server.key").write_bytes((other / "server.key").read_bytes())
        place.service.reload(place.service.site.config)
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, verify=trusted)
        trusted = ssl.create_default_context(cafile=str(other / "ca.pem"))
        assert httpx.get(url, verify=trusted).status_code == 300


def test_files_that_are_no_certificate_are_said(authority: Path) -> None:
    (authority / "server.pem").write_text("nothing")
    with pytest.raises(StartError, match=r"server\.pem"), served(with_tls(authority)):
        pass


def test_links_are_what_clients_can_reach() -> None:
    with served(replace(NOAUTH, public_url="https://storage.example.org/block")) as place:
        with place.api() as api:
            link = api.volume()["links"][0]["href"]
        assert link.startswith("https://storage.example.org/block/v3/project/volumes/")


# Its end


def test_what_has_begun_ends_before_the_service_does() -> None:
    begun, may_end = threading.Event(), threading.Event()
    make = Volumes.create

    def create(self: Volumes, *arguments: object) -> Volume:
        begun.set()
        may_end.wait(60)
        # As they came: of what types they are is for who is called.
        return make(self, *arguments)  # type: ignore[arg-type]

    with (
        served() as place,
        place.api() as api,
        patch.object(Volumes, "create", create),
        ThreadPoolExecutor() as clients,
    ):
        answer = clients.submit(api.ask, "POST", "volumes", {"volume": {"size": 1}})
        assert begun.wait(60)
        url = place.url
        stopping = clients.submit(place.service.server.stop)
        with pytest.raises(httpx.TransportError):
            while True:
                httpx.get(url)
        assert not stopping.done()
        may_end.set()
        assert answer.result().status_code == 202
        stopping.result()


def test_a_listener_that_does_not_answer_is_not_proved(place: Served) -> None:
    listener = place.service.server.listeners[0]
    with socket.socket() as silent, patch.object(proofs, "ANSWER_SECONDS", SOON):
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with patch.object(listener, "bound", silent), pytest.raises(NotProved):
            proofs.ask(listener)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as channel:
        return channel.connect_ex(str(path)) == 0


CONFIGURATION = """\
state_directory = "{folder}"
socket = "{folder}/attachd.sock"
listen = ""
log_level = "{level}"
"""


def test_the_program_serves_reloads_and_ends(tmp_path: Path) -> None:
    configuration = tmp_path / "attachd.toml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path, level="warning"))
    told = tmp_path / "told"
    with told.open("wb") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "attachd", "--config", str(configuration)],
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    try:
        until(lambda: listens(tmp_path / "attachd.sock"))
        transport = httpx.HTTPTransport(uds=str(tmp_path / "attachd.sock"))
        with httpx.Client(transport=transport, base_url="http://attachd") as client:
            assert client.get("/healthcheck").status_code == 200
            assert client.get("/v3/volumes").status_code == 401
            assert "volumes: 401" not in told.read_text()
            configuration.write_text(CONFIGURATION.format(folder=tmp_path, level="info"))
            program.send_signal(signal.SIGHUP)
            until(lambda: "taken over" in told.read_text())
            client.get("/v3/volumes")
            assert "GET /v3/volumes: 401" in told.read_text()
            configuration.write_text("nonsense = 1\n")
            program.send_signal(signal.SIGHUP)
            until(lambda: "the old configuration is kept" in told.read_text())
            assert client.get("/healthcheck").status_code == 200
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait()
    assert not (tmp_path / "attachd.sock").exists()
    assert "Traceback" not in told.read_text()


def test_a_key_that_was_lost_is_a_loud_refusal(api: Api, place: Served, tmp_path: Path) -> None:
    api.attachment(api.volume()["id"])
    config = place.service.site.config
    lost = replace(config, key_file=tmp_path / "key")
    with pytest.raises(StartError, match=str(lost.key_file)), opened(lost):
        pass
    assert not lost.secret_key.exists()
    with opened(config) as site:
        assert site.services.volumes


def test_the_connector_of_a_request_is_in_no_error(api: Api) -> None:
    body = {"attachment": {"volume_uuid": "x", "connector": {**connector(), "secret": "hidden"}}}
    answer = api.ask("POST", "attachments", body)
    assert "hidden" not in refused(answer, 400, "badRequest")
