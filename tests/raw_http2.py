"""Clients that no library would be: they stop halfway, never read, never answer a ping."""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path

from targetd_driver import TlsFiles

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SECONDS = 20.0
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4


def over_tls(port: int, files: TlsFiles, source: str = "127.0.0.1") -> socket.socket:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", port), SECONDS, (source, 0))
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def over_unix(path: Path) -> socket.socket:
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(SECONDS)
    plain.connect(str(path))
    return plain


class RawClient:
    """One connection, on which nothing is read until it is asked for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._next_stream = 1
        connection.sendall(PREFACE + _frame(SETTINGS, 0, 0, b""))

    def begin(self, method: str) -> int:
        """The headers of a call, and no more; returns the stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "x",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(_field(name.encode(), value.encode()) for name, value in fields.items())
        self._connection.sendall(_frame(HEADERS, END_HEADERS, stream, block))
        return stream

    def call(self, method: str, request: bytes = b"") -> None:
        body = struct.pack(">BI", 0, len(request)) + request
        self._connection.sendall(_frame(DATA, END_STREAM, self.begin(method), body))

    def ping(self) -> None:
        self._connection.sendall(_frame(PING, 0, 0, bytes(8)))

    def was_sent_away(self) -> bool:
        """Read to the end, which must come; whether a GOAWAY was before it."""
        with self._connection.makefile("rb") as stream:
            while head := stream.read(9):
                stream.read(int.from_bytes(head[:3], "big"))
                if head[3] == GOAWAY:
                    return True
        return False

    def close(self) -> None:
        self._connection.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    """A literal without indexing, of less than 127 bytes (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
