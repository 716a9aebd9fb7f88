"""Certificates that change under a server that runs: real handshakes over loopback."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from targetd_driver import Endpoint, TlsFiles

from targetd import tls_authority
from targetd.config import Config
from targetd.errors import StartError
from targetd.roles import Role
from targetd.server import tls
from targetd.server.serve import Server
from tests.hosts import client_files, tls_config

SECONDS = 20.0


class Site:
    """A server with certificates of its own, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tls"
        make_authority(self.folder)
        self.config = Config(
            pools=(),
            socket=folder / "targetd.sock",
            listen="127.0.0.1:0",
            tls=tls_config(self.folder),
        )
        self.server = Server(self.config)
        self.server.start()

    def channel(self, files: TlsFiles) -> grpc.Channel:
        return Endpoint(f"127.0.0.1:{self.server.port}", files).channel()

    def served(self) -> int:
        """The serial number of the certificate that a new connection is shown."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        address = ("127.0.0.1", self.server.port)
        with socket.create_connection(address, SECONDS) as plain:
            plain.settimeout(SECONDS)
            with context.wrap_socket(plain) as wrapped:
                der = wrapped.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def make_authority(folder: Path) -> None:
    tls_authority.init(folder)
    tls_authority.issue_server(folder, "server", ["127.0.0.1"])


def serial(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes()).serial_number


def answers(channel: grpc.Channel) -> grpc.StatusCode:
    health: Any = health_pb2_grpc.HealthStub(channel)
    try:
        health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    # Each handshake looks at the files.
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    made = Site(tmp_path)
    yield made
    made.server.stop(0)


def test_a_new_certificate_is_served_and_open_connections_stay(site: Site) -> None:
    files = client_files(site.folder, "client", Role.VIEWER)
    before = serial(site.folder)
    with site.channel(files) as channel:
        assert answers(channel) is grpc.StatusCode.OK
        assert site.served() == before
        tls_authority.issue_server(site.folder, "server", ["127.0.0.1"], renew=True)
        assert serial(site.folder) != before
        assert site.served() == serial(site.folder)
        assert answers(channel) is grpc.StatusCode.OK
    with site.channel(files) as channel:
        assert answers(channel) is grpc.StatusCode.OK


def test_the_files_are_not_looked_at_in_every_handshake(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Mock(wraps=tls._stamp)
    monkeypatch.setattr(tls, "_stamp", looked)
    monkeypatch.setattr(tls, "LOOK_SECONDS", 3600.0)
    before = site.served()
    tls_authority.issue_server(site.folder, "server", ["127.0.0.1"], renew=True)
    assert site.served() == before
    looked.assert_not_called()
    # Told to, it does not wait.
    site.server.reload(site.config)
    assert site.served() == serial(site.folder) != before


def test_the_clients_authority_can_change(site: Site, tmp_path: Path) -> None:
    old = client_files(site.folder, "client", Role.VIEWER)
    other = tmp_path / "other"
    make_authority(other)
    new = client_files(other, "client", Role.VIEWER)
    server_ca = site.folder / "server-ca.pem"
    shutil.copy(site.folder / "ca.pem", server_ca)
    new, old = replace(new, ca=server_ca), replace(old, ca=server_ca)
    with site.channel(old) as channel, site.channel(new) as refused:
        assert answers(channel) is grpc.StatusCode.OK
        assert answers(refused) is grpc.StatusCode.UNAVAILABLE
        shutil.copy(other / "ca.pem", site.folder / "ca.pem")
        with site.channel(new) as welcome:
            assert answers(welcome) is grpc.StatusCode.OK
        with site.channel(old) as late:
            assert answers(late) is grpc.StatusCode.UNAVAILABLE
        assert answers(channel) is grpc.StatusCode.OK


def test_both_authorities_while_clients_change_over(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_authority(other)
    old, new = (client_files(one, "client", Role.VIEWER) for one in (site.folder, other))
    server_ca = site.folder / "server-ca.pem"
    shutil.copy(site.folder / "ca.pem", server_ca)
    with (site.folder / "ca.pem").open("ab") as file:
        file.write((other / "ca.pem").read_bytes())
    for files in (old, new):
        with site.channel(replace(files, ca=server_ca)) as channel:
            assert answers(channel) is grpc.StatusCode.OK


def other_key(folder: Path) -> None:
    tls_authority.issue_server(folder, "second", ["127.0.0.1"])
    shutil.copy(folder / "second.key", folder / "server.key")


def garbled(name: str) -> Any:
    return lambda folder: (folder / name).write_text("-----BEGIN nothing-----\n")


BROKEN = [
    (other_key, "is not the key of"),
    (garbled("server.pem"), "holds no certificate"),
    (garbled("server.key"), "holds no key"),
    (garbled("ca.pem"), "holds no certificate"),
    (lambda folder: (folder / "server.pem").unlink(), "cannot be read"),
    (lambda folder: os.truncate(folder / "server.key", 0), "holds no key"),
]


@pytest.mark.parametrize(("breaks", "said"), BROKEN)
def test_what_is_broken_keeps_the_old_and_is_said_once(
    site: Site, caplog: pytest.LogCaptureFixture, breaks: Any, said: str
) -> None:
    files = client_files(site.folder, "client", Role.VIEWER)
    ca = site.folder / "clients-ca.pem"
    shutil.copy(site.folder / "ca.pem", ca)
    before = site.served()
    breaks(site.folder)
    assert site.served() == site.served() == before
    with site.channel(replace(files, ca=ca)) as channel:
        assert answers(channel) is grpc.StatusCode.OK
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 1 and said in errors[0] and "the old ones stay" in errors[0]
    with pytest.raises(StartError, match=said):
        tls.load(site.config.tls or pytest.fail())
    with pytest.raises(StartError, match=said):
        site.server.reload(replace(site.config, roles={"client": Role.NONE}))
    assert site.served() == before
    with site.channel(replace(files, ca=ca)) as channel:
        assert answers(channel) is grpc.StatusCode.OK


def test_other_files_by_the_configuration(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_authority(other)
    site.server.reload(replace(site.config, tls=tls_config(other)))
    assert site.served() == serial(other)
    with site.channel(client_files(other, "client", Role.VIEWER)) as channel:
        assert answers(channel) is grpc.StatusCode.OK


def test_a_client_is_shut_out_on_its_open_connection(site: Site) -> None:
    with site.channel(client_files(site.folder, "laptop", Role.ADMIN)) as channel:
        assert answers(channel) is grpc.StatusCode.OK
        site.server.reload(replace(site.config, roles={"laptop": Role.NONE}))
        assert answers(channel) is grpc.StatusCode.PERMISSION_DENIED
        site.server.reload(site.config)
        assert answers(channel) is grpc.StatusCode.OK


def test_a_servers_certificate_is_none_for_clients(site: Site) -> None:
    files = TlsFiles(*(site.folder / name for name in ("server.pem", "server.key", "ca.pem")))
    with site.channel(files) as channel:
        assert answers(channel) is grpc.StatusCode.UNAVAILABLE


def test_without_a_certificate_nobody_gets_in(site: Site) -> None:
    credentials = grpc.ssl_channel_credentials((site.folder / "ca.pem").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{site.server.port}", credentials) as channel:
        assert answers(channel) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{site.server.port}") as channel:
        assert answers(channel) is grpc.StatusCode.UNAVAILABLE


def test_keys_open_to_others_and_with_passphrases_are_refused(site: Site) -> None:
    files = site.config.tls
    assert files is not None
    files.key.chmod(0o604)
    with pytest.raises(StartError, match="chmod o="):
        tls.load(files)
    files.key.chmod(0o640)
    tls.load(files)


def test_a_certificate_near_its_end_is_warned_of(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    assert "is valid from" not in caplog.text
    valid = tls.EXPIRY_WARNING / 2
    tls_authority.issue_server(site.folder, "server", ["127.0.0.1"], valid, renew=True)
    site.server.reload(site.config)
    assert "is valid from" in caplog.text
    assert site.served() == serial(site.folder)


def test_loopback_without_tls_is_for_admins(tmp_path: Path) -> None:
    config = Config(pools=(), socket=tmp_path / "s", listen="127.0.0.1:0", listen_without_tls=True)
    server = Server(config)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert answers(channel) is grpc.StatusCode.OK
    server.stop(0)


def test_the_socket_is_for_the_group_of_its_folder(tmp_path: Path) -> None:
    group = next(iter({*os.getgroups(), os.getgid()}))
    os.chown(tmp_path, -1, group)
    server = Server(Config(pools=(), socket=tmp_path / "s"))
    status = (tmp_path / "s").stat()
    assert (status.st_mode & 0o777, status.st_gid) == (0o660, group)
    server.start()
    server.stop(0)
