"""The authority: what it writes, what it never overwrites, and what its certificates are for."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from targetd import tls_authority
from targetd.roles import Role
from targetd.server.clients import client_of
from targetd.tls_authority import (
    AlreadyThere,
    BadKey,
    BadName,
    CannotWrite,
    NoAuthority,
    issue_client,
    issue_server,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tls"
    tls_authority.init(made)
    return made


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tls"
    written = tls_authority.init(folder)
    written += issue_client(folder, "manager", Role.ATTACHER)
    written += issue_server(folder, "storage", ["storage.example", "192.0.2.1", "2001:db8::1"])
    assert set(written) == set(folder.iterdir())
    assert modes(folder) == {
        "ca.pem": 0o644,
        "ca.key": 0o600,
        "manager.pem": 0o644,
        "manager.key": 0o600,
        "storage.pem": 0o644,
        "storage.key": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_authority_is_never_overwritten(folder: Path) -> None:
    before = (folder / "ca.key").read_bytes(), (folder / "ca.pem").read_bytes()
    for missing in (None, "ca.pem", "ca.key"):
        held = b""
        if missing:
            held = (folder / missing).read_bytes()
            (folder / missing).unlink()
        with pytest.raises(AlreadyThere, match="never overwritten"):
            tls_authority.init(folder)
        if missing:
            (folder / missing).write_bytes(held)
    assert ((folder / "ca.key").read_bytes(), (folder / "ca.pem").read_bytes()) == before


def test_a_key_that_appears_meanwhile_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "x.key").write_text("somebody's")
    monkeypatch.setattr(tls_authority, "_known_key", lambda places, renew: b"")
    with pytest.raises(AlreadyThere):
        issue_client(folder, "x", Role.VIEWER)
    assert (folder / "x.key").read_text() == "somebody's"
    assert sorted(modes(folder)) == ["ca.key", "ca.pem", "x.key"]


def verified(folder: Path, name: str, client: bool) -> bool:
    """By the rules of RFC 5280, for that end of a connection."""
    store = Store([certificate(folder / "ca.pem")])
    builder = PolicyBuilder().store(store)
    leaf = certificate(folder / f"{name}.pem")
    try:
        if client:
            policy = ExtensionPolicy.webpki_defaults_ee()
            ca_policy = ExtensionPolicy.webpki_defaults_ca()
            builder = builder.extension_policies(ca_policy=ca_policy, ee_policy=policy)
            builder.build_client_verifier().verify(leaf, [])
        else:
            address = ipaddress.ip_address("192.0.2.1")
            builder.build_server_verifier(x509.IPAddress(address)).verify(leaf, [])
    except VerificationError:
        return False
    return True


def test_each_certificate_is_for_its_end(folder: Path) -> None:
    issue_server(folder, "storage", ["192.0.2.1", "storage.example", "*.example"])
    issue_client(folder, "manager", Role.ADMIN)
    assert verified(folder, "storage", client=False)
    assert verified(folder, "manager", client=True)
    assert not verified(folder, "storage", client=True)
    assert not verified(folder, "manager", client=False)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ATTACHER, Role.ADMIN])
def test_the_daemon_reads_the_role(folder: Path, role: Role) -> None:
    issue_client(folder, "manager-1", role)
    found = client_of({}, (folder / "manager-1.pem").read_bytes())
    assert (found.identity, found.role) == ("manager-1", role)
    issue_server(folder, "storage", ["storage.example"])
    assert client_of({}, (folder / "storage.pem").read_bytes()).role is Role.NONE


def test_nothing_outlives_the_authority(folder: Path) -> None:
    issue_client(folder, "a", Role.VIEWER)
    issue_client(folder, "b", Role.VIEWER, timedelta(days=100_000))
    ca, a, b = (certificate(folder / f"{name}.pem") for name in ("ca", "a", "b"))
    now = datetime.now(UTC)
    assert timedelta(days=364) < a.not_valid_after_utc - now <= timedelta(days=365)
    assert b.not_valid_after_utc == ca.not_valid_after_utc
    assert a.not_valid_before_utc < now


def test_renewing_keeps_the_key(folder: Path) -> None:
    issue_client(folder, "a", Role.VIEWER)
    key, before = (folder / "a.key").read_bytes(), certificate(folder / "a.pem")
    with pytest.raises(AlreadyThere, match="renew"):
        issue_client(folder, "a", Role.VIEWER)
    with pytest.raises(AlreadyThere, match="renew"):
        issue_server(folder, "a", ["192.0.2.1"])
    assert certificate(folder / "a.pem") == before
    assert issue_client(folder, "a", Role.ADMIN, renew=True) == [folder / "a.pem"]
    after = certificate(folder / "a.pem")
    assert (folder / "a.key").read_bytes() == key
    assert after.public_key() == before.public_key()
    assert after.serial_number != before.serial_number
    assert len(issue_client(folder, "b", Role.ADMIN, renew=True)) == 2


BAD_NAMES = ("", "ca", "../a", "a/b", ".a", "-a", "a b", "a\n", "ü", "a" * 64, "\0")


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_are_names_of_files(folder: Path, name: str) -> None:
    before = modes(folder)
    with pytest.raises(BadName):
        issue_client(folder, name, Role.VIEWER)
    with pytest.raises(BadName):
        issue_server(folder, name, ["192.0.2.1"])
    assert modes(folder) == before


@pytest.mark.parametrize(
    "addresses", [[], [""], ["a b"], ["192.0.2.1:7788"], ["a..b"], ["-a"], ["x" * 64], ["a/24"]]
)
def test_addresses_are_checked(folder: Path, addresses: list[str]) -> None:
    with pytest.raises(BadName):
        issue_server(folder, "storage", addresses)
    assert not (folder / "storage.key").exists()


def test_no_certificate_is_for_no_role(folder: Path) -> None:
    with pytest.raises(BadName, match="viewer, attacher or admin"):
        issue_client(folder, "a", Role.NONE)


def test_what_is_wrong_with_the_authority_is_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(NoAuthority, match="lunctl tls init"):
        issue_client(tmp_path / "none", "a", Role.VIEWER)
    other = tmp_path / "other"
    tls_authority.init(other)
    (folder / "ca.key").write_bytes((other / "ca.key").read_bytes())
    with pytest.raises(NoAuthority, match="is not the key"):
        issue_client(folder, "a", Role.VIEWER)
    (folder / "ca.key").write_text("nonsense")
    with pytest.raises(NoAuthority, match="not a key"):
        issue_client(folder, "a", Role.VIEWER)
    (folder / "ca.pem").write_text("nonsense")
    with pytest.raises(NoAuthority, match="not a certificate"):
        issue_client(folder, "a", Role.VIEWER)


def test_a_key_of_another_kind_is_not_taken(folder: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "a.key").write_bytes(pem)
    with pytest.raises(BadKey, match=r"a\.key"):
        issue_client(folder, "a", Role.VIEWER, renew=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot be made"):
        tls_authority.init(tmp_path / "file" / "tls")
