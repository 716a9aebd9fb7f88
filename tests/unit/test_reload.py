"""SIGHUP: what can change changes, what cannot is named, what is wrong changes nothing."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from targetd_driver import Endpoint, TlsFiles

from lab.health import status_now
from targetd import service
from targetd.api.v1 import volume_pb2
from targetd.config import Config, TlsConfig
from targetd.daemon import Daemon
from targetd.engines.simulated import SimulatedHost, SimulatedLio, SimulatedLvm
from targetd.errors import StartError
from targetd.model import PoolConfig, WipePolicy
from targetd.roles import Role
from targetd.tls_authority import Authority
from tests.hosts import MEBIBYTE, Host, SimulatedBacking
from tests.systemd import Systemd

CONFIGURATION = """\
state_directory = "{folder}/state"
socket = "{folder}/targetd.sock"
portal_addresses = ["192.0.2.1"]
reconcile_seconds = {seconds}
[[pool]]
name = "thick"
volume_group = "storage"
"""


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


def test_signals_and_what_systemd_is_told(tmp_path: Path) -> None:
    path = tmp_path / "targetd.toml"
    path.write_text(CONFIGURATION.format(folder=tmp_path, seconds=1))
    systemd = Systemd(tmp_path / "notify")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "targetd", "--simulate", "--config", str(path)],
        env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "PYTHONPATH": ":".join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert systemd.hears("EXTEND_TIMEOUT_USEC=")
        serving = f"serving on {tmp_path}/targetd.sock"
        assert systemd.hears("READY=1") == f"READY=1\nSTATUS={serving}"

        path.write_text(CONFIGURATION.format(folder=tmp_path, seconds=-1))
        daemon.send_signal(signal.SIGHUP)
        assert systemd.hears("RELOADING=1")
        told = systemd.hears("READY=1")
        assert "the old configuration is kept" in told
        assert f"{path}:4: reconcile_seconds: must not be negative" in told

        path.write_text('iqn_prefix = "iqn.2026-01.org.example"\n' + path.read_text())
        path.write_text(path.read_text().replace("= -1", "= 2"))
        daemon.send_signal(signal.SIGHUP)
        assert systemd.hears("READY=1").endswith("; needs a restart: iqn_prefix")

        path.write_text(CONFIGURATION.format(folder=tmp_path, seconds=3))
        daemon.send_signal(signal.SIGHUP)
        assert systemd.hears("READY=1") == f"READY=1\nSTATUS={serving}"
        daemon.send_signal(signal.SIGTERM)
        assert systemd.hears("STOPPING=1")
        _, said = daemon.communicate(timeout=30)
    finally:
        daemon.kill()
        systemd.close()
    assert daemon.returncode == 0
    assert "ERROR targetd.service: the old configuration is kept" in said
    assert "WARNING targetd.service: the configuration was taken over, but this" in said


def test_policies_change(simulated_backing: SimulatedBacking) -> None:
    host, daemon = Host(simulated_backing), simulated_backing.daemon
    first, second = (host.create("thick") for _ in range(2))

    def delete(volume_id: str) -> str:
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        return host.volumes.DeleteVolume(request).operation_id

    assert delete(first), "it is wiped"
    pools = tuple(replace(pool, wipe=WipePolicy.NONE) for pool in daemon._config.pools)
    assert daemon.configure(replace(daemon._config, pools=pools, reconcile_seconds=7)) == []
    assert not delete(second), "nothing is wiped any more"
    shown = host.volumes.ListPools(volume_pb2.ListPoolsRequest()).pools
    assert {pool.wipe for pool in shown} == {volume_pb2.WIPE_POLICY_NONE}
    assert daemon.reconciler._seconds == 7
    host.close()


def test_what_runs_takes_the_new_throttle(simulated_backing: SimulatedBacking) -> None:
    host, daemon = Host(simulated_backing), simulated_backing.daemon
    # So slow that it would take an hour.
    slow = replace(daemon._config, throttle_bytes_per_second=MEBIBYTE // 64)
    daemon.configure(slow)
    volume_id = host.create("thick", 64 * MEBIBYTE)
    operation_id = host.volumes.DeleteVolume(
        volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
    ).operation_id
    work = daemon.operations._works[operation_id]
    assert not work.ended.wait(0.3)
    daemon.configure(replace(slow, throttle_bytes_per_second=0))
    assert work.ended.wait(30)
    host.close()


def test_the_log_level_changes(simulated_backing: SimulatedBacking) -> None:
    daemon = simulated_backing.daemon
    daemon.configure(replace(daemon._config, log_level="error"))
    assert logging.getLogger().level == logging.ERROR
    daemon.configure(replace(daemon._config, log_level="debug"))
    assert logging.getLogger().level == logging.DEBUG


class Tls:
    """A daemon that serves TCP, and certificates of one authority after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tls = TlsConfig(folder / "server.pem", folder / "server.key", folder / "ca.pem")
        self.first = self.issue("first")
        self.config = Config(
            pools=(PoolConfig("thick", "storage"),),
            state_directory=folder / "state",
            socket=folder / "targetd.sock",
            listen="127.0.0.1:0",
            tls=self.tls,
            portal_addresses=("192.0.2.1",),
        )

    def issue(self, name: str) -> TlsFiles:
        """New certificates for the daemon; returns those of a client."""
        authority = Authority.new()
        certificate, key = authority.server("localhost", ["127.0.0.1"])
        self.tls.certificate.write_bytes(certificate)
        self.tls.key.write_bytes(key)
        self.tls.key.chmod(0o600)
        self.tls.client_ca.write_bytes(authority.certificate)
        folder = self._folder / name
        folder.mkdir()
        files = TlsFiles(folder / "client.pem", folder / "client.key", folder / "ca.pem")
        certificate, key = authority.client("client", Role.ADMIN)
        files.certificate.write_bytes(certificate)
        files.key.write_bytes(key)
        files.ca.write_bytes(authority.certificate)
        return files


def reached(daemon: Daemon, files: TlsFiles, seconds: float = 20.0) -> bool:
    with Endpoint(f"127.0.0.1:{daemon.port}", files).channel() as channel:
        try:
            return status_now(channel, seconds) == "SERVING"
        except grpc.RpcError:
            return False


def test_certificates_change(tmp_path: Path) -> None:
    tls = Tls(tmp_path)
    host = SimulatedHost()
    daemon = Daemon(tls.config, SimulatedLvm(tls.config.pools, host, 1 << 30), SimulatedLio(host))
    daemon.start()
    try:
        with Endpoint(f"127.0.0.1:{daemon.port}", tls.first).channel() as open_before:
            assert status_now(open_before) == "SERVING"
            second = tls.issue("second")
            assert not reached(daemon, second, 1.0)
            assert service.reload(daemon, lambda: tls.config) == ""
            assert reached(daemon, second)
            assert not reached(daemon, tls.first, 1.0)
            assert status_now(open_before) == "SERVING", "who was let in stays"

        tls.tls.key.unlink()
        wanted = replace(tls.config, reconcile_seconds=9)
        with pytest.raises(StartError, match=r"server\.key cannot be read"):
            daemon.configure(wanted)
        assert daemon.reconciler._seconds != 9, "nothing of it was taken over"
        assert reached(daemon, second)
    finally:
        daemon.stop()
