"""HTTP to attachd: over TLS, plain, or over its unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from targetd_local.errors import AttachdError, NotPossible, Unreachable

DEFAULT_URL = "unix:/run/attachd/attachd.sock"
DEFAULT_SECONDS = 60.0
# The one that knows the mode of an attachment.
VERSION = "volume 3.54"
API = "/v3"
# Of an answer; a page of attachments is far below that.
ANSWER_BYTES_MAX = 16 << 20


@dataclass(frozen=True)
class Address:
    """``unix:/run/attachd/attachd.sock``, ``https://host:8776``, ``http://host:8776``.

    ``ca`` is a PEM file with the authority of the server's certificate, where the system's own
    authorities do not know it; ``certificate`` and ``key`` are for a proxy that asks for them.
    Raises ValueError for an address that is none.
    """

    url: str = DEFAULT_URL
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.socket_path:
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url} is not like https://HOST:8776 or {DEFAULT_URL}")
        if parts.username or parts.password:
            raise ValueError("a URL is seen by everybody on the host; put the token into a file")

    @property
    def socket_path(self) -> str:
        return self.url.removeprefix("unix:") if self.url.startswith("unix:") else ""

    @property
    def host(self) -> str:
        """Where it is in the network; empty for a unix socket."""
        return "" if self.socket_path else urlsplit(self.url).hostname or ""

    @property
    def path(self) -> str:
        """What stands before the project."""
        if self.socket_path:
            return API
        path = urlsplit(self.url).path.rstrip("/")
        return path if path.endswith(API) else f"{path}{API}"

    def connection(self, seconds: float) -> http.client.HTTPConnection:
        if self.socket_path:
            return _UnixConnection(self.socket_path, seconds)
        parts = urlsplit(self.url)
        assert parts.hostname, "checked"
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
        return http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=seconds, context=self._tls()
        )

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            files = ", ".join(str(one) for one in (self.ca, self.certificate, self.key) if one)
            raise NotPossible(f"TLS with {files}: {error.strerror or error}") from None
        return context


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Transport:
    """Each request on a connection of its own; for use by several threads."""

    address: Address
    # Empty: that of the token.
    project: str = ""
    # Not in what is printed of it.
    token: str = field(default="", repr=False)
    seconds: float = DEFAULT_SECONDS

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's document; None where there is none.

        Raises AttachdError for what attachd refuses, and Unreachable when there is no answer.
        """
        project = f"{quote(self.project, safe='')}/" if self.project else ""
        target = f"{self.address.path}/{project}{path}"
        data = None if body is None else json.dumps(body).encode()
        connection = self.address.connection(self.seconds)
        sent = False
        try:
            connection.connect()
            sent = True
            connection.request(method, target, data, self._headers(data))
            answer = connection.getresponse()
            text = answer.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.address.url}: {_why(error, self.seconds)}", sent) from None
        finally:
            connection.close()
        return _document(answer.status, text, self.address.url)

    def _headers(self, data: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "OpenStack-API-Version": VERSION}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self.token:
            headers["X-Auth-Token"] = self.token
        return headers


def _why(error: Exception, seconds: float) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted ({error.verify_message}); "
            "name the authority that signed it"
        )
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _document(status: int, text: bytes, url: str) -> Any:
    try:
        found = json.loads(text) if text else None
    except ValueError:
        found = text.decode(errors="replace")
    if status >= 300:
        raise AttachdError(_message(status, found), status)
    if isinstance(found, str):
        raise AttachdError(f"{url} answers, but not as attachd does: is it something else?", 500)
    return found


def _message(status: int, found: Any) -> str:
    """The field's form of an error: one object, named for its status."""
    if isinstance(found, dict):
        for inner in found.values():
            if isinstance(inner, dict) and inner.get("message"):
                return str(inner["message"])
    said = http.client.responses.get(status, "")
    return f"attachd answered with {status} {said}".strip()
