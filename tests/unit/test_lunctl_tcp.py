"""lunctl over TCP: who is let in with which certificates, and what the others are told."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from targetd_driver import Endpoint

from lab.certificates import Authority
from targetd.config import TlsConfig
from tests.hosts import SimulatedBacking
from tests.lunctl import Lunctl


def _files(folder: Path, authority: Authority, trusted: Authority, *addresses: str) -> list[str]:
    folder.mkdir()
    certificate, key = authority.issue("localhost", addresses)
    pieces = {"ca": trusted.certificate, "certificate": certificate, "key": key}
    options = []
    for name, content in pieces.items():
        (folder / name).write_bytes(content)
        options += [f"--tls-{name}", str(folder / name)]
    return options


@pytest.fixture
def address() -> str:
    """Where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_over_tcp_with_certificates(address: str, tmp_path: Path) -> None:
    ours, other = Authority(), Authority()
    files = _files(tmp_path / "server", ours, ours, "127.0.0.1")
    tls = TlsConfig(*(Path(files[at]) for at in (3, 5, 1)))

    class Backing(SimulatedBacking):
        options: ClassVar[Mapping[str, Any]] = {"listen": address, "tls": tls}

    with closing(Backing(tmp_path)):
        _over_tcp(Lunctl(Endpoint(address)), tmp_path, ours, other)


def _over_tcp(lunctl: Lunctl, tmp_path: Path, ours: Authority, other: Authority) -> None:
    right = _files(tmp_path / "right", ours, ours)
    assert lunctl.json("host", *right)["portals"] == ["192.0.2.1:3260"]
    assert "it is on another host" in lunctl.run("doctor", *right).stdout
    for name, authority, trusted in (("other", ours, other), ("client", other, ours)):
        wrong = _files(tmp_path / name, authority, trusted)
        assert "certificates" in lunctl.run("host", *wrong, status=7).stderr
    nobody = ("--endpoint", "127.0.0.1:1")
    assert "Connection refused" in lunctl.run("host", *right, *nobody, status=8).stderr
