"""attachd over HTTP as a client sees it: addresses, headers, errors, TLS, silence."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from targetd_local import Attachd, AttachdError, NotPossible, Unreachable
from targetd_local.transport import Address, Transport

from targetd import tls_authority

TOKEN = "a.secret-token"


class Answering(BaseHTTPRequestHandler):
    """Answers as the test says, and keeps what it was asked."""

    answer: ClassVar[tuple[int, bytes]] = (200, b"{}")
    asked: ClassVar[list[tuple[str, str, dict[str, str], bytes]]] = []
    hold: ClassVar[threading.Event] = threading.Event()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.command, self.path, dict(self.headers), body))
        self.hold.wait(30)
        status, text = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *arguments: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture(autouse=True)
def clean() -> None:
    Answering.answer = (200, b"{}")
    Answering.asked.clear()
    Answering.hold.set()


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        Answering.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    with _serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def _says(status: int, document: Any) -> None:
    Answering.answer = (status, json.dumps(document).encode())


def test_what_is_asked(url: str) -> None:
    _says(200, {"volumes": [{"id": "v", "status": "available"}]})
    attachd = Attachd(url, project="a/b", token=TOKEN)
    assert attachd.volumes() == [("v", "available")]
    ((method, path, headers, body),) = Answering.asked
    assert (method, path, body) == ("GET", "/v3/a%2Fb/volumes/detail", b"")
    assert headers["X-Auth-Token"] == TOKEN
    assert headers["OpenStack-API-Version"] == "volume 3.54"


def test_an_attachment_from_its_making_to_its_end(url: str) -> None:
    given = {
        "id": "one",
        "volume_id": "v",
        "instance": None,
        "status": "attaching",
        "attach_mode": "ro",
        "connection_info": {"target_iqn": "iqn.x"},
    }
    _says(200, {"attachment": given})
    attachd = Attachd(f"{url}/v3/")
    made = attachd.create("v", {"initiator": "iqn.a"}, "ro")
    assert made.id == "one" and made.instance == "" and not made.is_attached
    attachd.update("one", {"initiator": "iqn.a"})
    _says(204, None)
    attachd.complete("one")
    attachd.delete("one")
    _says(200, {"attachments": [given]})
    assert attachd.attachments("v", "host a") == [made]
    asked = [
        (method, path, json.loads(body or b"null")) for method, path, _, body in Answering.asked
    ]
    assert asked == [
        (
            "POST",
            "/v3/attachments",
            {
                "attachment": {
                    "volume_uuid": "v",
                    "connector": {"initiator": "iqn.a"},
                    "mode": "ro",
                }
            },
        ),
        ("PUT", "/v3/attachments/one", {"attachment": {"connector": {"initiator": "iqn.a"}}}),
        ("POST", "/v3/attachments/one/action", {"os-complete": None}),
        ("DELETE", "/v3/attachments/one", None),
        ("GET", "/v3/attachments/detail?volume_id=v&attached_host=host+a", None),
    ]


def test_errors_in_the_words_of_attachd(url: str) -> None:
    _says(409, {"conflictingRequest": {"code": 409, "message": "in use, by x"}})
    with pytest.raises(AttachdError, match=r"^in use, by x$") as caught:
        Attachd(url).complete("one")
    assert caught.value.code == 409
    _says(404, {"itemNotFound": {"code": 404, "message": "no such attachment"}})
    Attachd(url).delete("one")
    with pytest.raises(AttachdError, match="no such"):
        Attachd(url).complete("one")


@pytest.mark.parametrize("text", [b"<html>a proxy</html>", b"\xff\xfe", b"[]", b'{"volumes": [1]}'])
def test_an_answer_of_something_else(url: str, text: bytes) -> None:
    for status in (200, 502):
        Answering.answer = (status, text)
        with pytest.raises(AttachdError):
            Attachd(url).volumes()


def test_no_answer_in_time(url: str) -> None:
    Answering.hold.clear()
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s") as caught:
        Attachd(url, seconds=0.2).volumes()
    assert caught.value.sent


def test_nobody_there(tmp_path: Path) -> None:
    for address in ("http://127.0.0.1:1", f"unix:{tmp_path}/none"):
        with pytest.raises(Unreachable, match=address) as caught:
            Attachd(address).volumes()
        assert not caught.value.sent


def test_over_a_unix_socket(tmp_path: Path) -> None:
    _says(200, {"volumes": []})
    with _serving(socketserver.UnixStreamServer(str(tmp_path / "s"), Answering)):
        assert Attachd(f"unix:{tmp_path}/s").volumes() == []


class Distrusted(HTTPServer):
    """Clients hang up on it, which is what is tested."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def tls_url(tmp_path: Path) -> Iterator[str]:
    tls_authority.init(tmp_path)
    tls_authority.issue_server(tmp_path, "server", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = Distrusted(("127.0.0.1", 0), Answering)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    with _serving(server):
        yield f"https://127.0.0.1:{server.server_port}"


def test_only_a_certificate_that_is_known(tls_url: str, tmp_path: Path) -> None:
    _says(200, {"volumes": []})
    assert Attachd(tls_url, ca=tmp_path / "ca.pem").volumes() == []
    Answering.asked.clear()
    with pytest.raises(Unreachable, match="certificate") as caught:
        Attachd(tls_url, token=TOKEN).volumes()
    assert not caught.value.sent
    with pytest.raises(Unreachable, match="certificate"):
        # The right authority, and another name.
        Attachd(tls_url.replace("127.0.0.1", "localhost"), ca=tmp_path / "ca.pem").volumes()
    assert Answering.asked == [], "no token goes to somebody else"
    with pytest.raises(NotPossible, match=r"none\.pem"):
        Attachd(tls_url, ca=tmp_path / "none.pem").volumes()


@pytest.mark.parametrize("url", ["host:8776", "ftp://host", "https://", "http://me:word@host"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError):
        Address(url)


def test_a_token_is_in_nothing_that_is_printed() -> None:
    assert TOKEN not in repr(Transport(Address(), "p", TOKEN))
