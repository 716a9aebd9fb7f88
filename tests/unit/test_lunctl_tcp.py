"""lunctl over TCP: who is let in with which certificates, and what the others are told."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from targetd_driver import Endpoint, TlsFiles

from targetd.roles import Role
from tests.hosts import SimulatedBacking
from tests.lunctl import Lunctl


def _options(files: TlsFiles | None) -> list[str]:
    assert files is not None
    return [
        *("--tls-ca", str(files.ca)),
        *("--tls-certificate", str(files.certificate)),
        *("--tls-key", str(files.key)),
    ]


def _files(folder: Path, name: str, ca: Path) -> TlsFiles:
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", ca / "ca.pem")


@pytest.fixture
def lunctl(simulated_backing: SimulatedBacking) -> Lunctl:
    return Lunctl(simulated_backing.endpoint_for(Role.ADMIN))


def test_each_role_does_what_it_may(lunctl: Lunctl, simulated_backing: SimulatedBacking) -> None:
    options = {role: _options(simulated_backing.endpoint_for(role).tls) for role in Role}
    create = ("volume", "create", "--size", "16MiB", "--pool", "thin")
    lunctl.run(*create, *options[Role.ADMIN])
    for role in (Role.VIEWER, Role.ATTACHER):
        assert len(lunctl.json("volume", "list", *options[role])["volumes"]) == 1
        error = lunctl.error(*create, *options[role], status=7)
        assert error["reason"] == "FORBIDDEN" and "certificate" in error["hints"][0]
    assert "nothing is wrong" in lunctl.run("status", *options[Role.VIEWER]).stdout
    shown = lunctl.run("status", *options[Role.ATTACHER]).stdout
    assert "nothing is wrong" in shown and "not shown: your role is for attaching" in shown
    assert lunctl.json("status", *options[Role.ATTACHER])["pools"] is None
    assert "all it has is well" in lunctl.run("doctor", *options[Role.ATTACHER]).stdout
    lunctl.run("volume", "list", *options[Role.NONE], status=7)
    assert "it is on another host" in lunctl.run("doctor", *options[Role.VIEWER]).stdout


def test_certificates_that_lunctl_makes(
    lunctl: Lunctl, simulated_backing: SimulatedBacking, tmp_path: Path
) -> None:
    ours = simulated_backing.certificates
    made = lunctl.json("tls", "issue", str(ours), "me", "--role", "admin", "--days", "2")
    assert set(made["written"]) == {str(ours / "me.pem"), str(ours / "me.key")}
    assert stat.S_IMODE((ours / "me.key").stat().st_mode) == 0o600
    assert lunctl.json("host", *_options(_files(ours, "me", ours)))["portals"]
    # An authority of somebody else's, and what it says of itself is not believed.
    other = tmp_path / "other"
    written = lunctl.run("tls", "init", str(other)).stdout.split()
    assert sorted(written) == [str(other / "ca.key"), str(other / "ca.pem")]
    lunctl.run("tls", "issue", str(other), "me", "--role", "admin")
    for files in (_files(other, "me", ours), _files(ours, "me", other)):
        assert "certificates" in lunctl.run("host", *_options(files), status=7).stderr


def test_a_certificate_for_the_daemon(lunctl: Lunctl, tmp_path: Path) -> None:
    lunctl.run("tls", "init", str(tmp_path), "--name", "a site")
    issue = ("tls", "issue", str(tmp_path), "storage")
    server = ("--server", "192.0.2.1", "--server", "storage.example.org")
    written = json.loads(lunctl.run(*issue, *server, "--json").stdout)["written"]
    key = (tmp_path / "storage.key").read_bytes()
    assert len(written) == 2 and key.startswith(b"-----BEGIN PRIVATE KEY-----")
    lunctl.run(*issue, *server, status=4)
    assert lunctl.json(*issue, *server, "--renew")["written"] == [str(tmp_path / "storage.pem")]
    assert (tmp_path / "storage.key").read_bytes() == key


def test_certificates_that_are_not_made(lunctl: Lunctl, tmp_path: Path) -> None:
    folder = str(tmp_path)
    refused = lunctl.run("tls", "issue", folder, "x", "--role", "admin", status=3)
    assert f"lunctl tls init {folder}" in refused.stderr
    lunctl.run("tls", "init", folder)
    assert "never overwritten" in lunctl.run("tls", "init", folder, status=4).stderr
    lunctl.run("tls", "issue", folder, "x", status=2)
    lunctl.run("tls", "issue", folder, "x", "--role", "admin", "--server", "a", status=2)
    lunctl.run("tls", "issue", folder, "../x", "--role", "admin", status=2)
    lunctl.run("tls", "issue", folder, "x", "--server", "not a name", status=2)


def test_nobody_on_tcp(lunctl: Lunctl, simulated_backing: SimulatedBacking) -> None:
    options = _options(simulated_backing.endpoint_for(Role.ADMIN).tls)
    nobody = Lunctl(Endpoint("127.0.0.1:1"))
    assert "Connection refused" in nobody.run("host", *options, status=8).stderr
