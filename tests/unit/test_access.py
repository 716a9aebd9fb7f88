"""Rules, clients and what their certificates say, without a server."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.config import Config
from targetd.errors import ResourceExhausted
from targetd.roles import Role
from targetd.server.access import RULES, refusal, rule_of
from targetd.server.clients import LOOPBACK, NOBODY, UNIX_SOCKET, Clients, client_of
from targetd.server.limits import AtOnce

FILES = (volume_pb2, export_pb2, host_pb2, health_pb2, reflection_pb2)
SERVICES: list[ServiceDescriptor] = [
    service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()
]
METHODS = {
    f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods
}
OURS = {method for method in METHODS if method.startswith("/targetd.")}


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    assert len(OURS) > 20
    assert METHODS - set(RULES) == set()
    assert set(RULES) - METHODS == set()


def test_what_has_no_rule_nobody_may_call() -> None:
    rule = rule_of("/targetd.v1.VolumeService/Invented")
    assert rule.roles == frozenset()
    assert rule.mutates
    error = refusal("/targetd.v1.VolumeService/Invented", "x", Role.ADMIN, "")
    assert error.message == "no role may call Invented, x has the role admin"


def test_an_admin_may_call_everything_and_a_client_without_role_nothing() -> None:
    assert all(Role.ADMIN in rule.roles for rule in RULES.values())
    assert not any(Role.NONE in rule.roles for rule in RULES.values())


def test_a_viewer_only_looks() -> None:
    seen = {method.rpartition("/")[2] for method in OURS if Role.VIEWER in rule_of(method).roles}
    assert all(name.startswith(("Get", "List", "Watch")) for name in seen)
    looks = {m for m in OURS if m.rpartition("/")[2].startswith(("Get", "List", "Watch"))}
    # The flight record shows how the host is made.
    assert {m for m in looks if Role.VIEWER not in rule_of(m).roles} == {
        "/targetd.v1.HostService/GetFlightRecord"
    }


def test_what_is_not_looking_or_checking_mutates() -> None:
    quiet = {m.rpartition("/")[2] for m in OURS if not rule_of(m).mutates} - {"ValidateConnector"}
    assert all(name.startswith(("Get", "List", "Watch")) for name in quiet)
    assert not any(rule.mutates and Role.VIEWER in rule.roles for rule in RULES.values())


def test_an_attacher_changes_exports_and_connections_only() -> None:
    allowed = {m for m in OURS if Role.ATTACHER in rule_of(m).roles and rule_of(m).mutates}
    assert allowed == {
        f"/targetd.v1.ExportService/{name}"
        for name in ("CreateExport", "RemoveExport", "InitializeConnection", "TerminateConnection")
    }


def certificate(common_names: list[str], *names: x509.GeneralName) -> bytes:
    """Self-signed: TLS has verified it when the daemon reads it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ATTACHER, Role.ADMIN])
def test_the_role_of_the_certificate(role: Role) -> None:
    found = client_of({}, certificate(["laptop"], x509.DNSName("a.example"), uri(role.urn)))
    assert (found.identity, found.role) == ("laptop", role)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (uri("urn:targetd:role:root"),),
        (uri("urn:targetd:role:ADMIN"),),
        (uri("urn:targetd:role:admin:x"),),
        (uri("https://example/urn:targetd:role:admin"),),
        (x509.DNSName("urn:targetd:role:admin"),),
        (x509.IPAddress(ipaddress.ip_address("127.0.0.1")),),
        (uri("urn:targetd:role:none"), uri("urn:targetd:role:admin")),
    ],
)
def test_what_names_no_role_has_none(names: tuple[x509.GeneralName, ...]) -> None:
    found = client_of({}, certificate(["admin"], *names))
    assert found.role is Role.NONE
    assert "[roles]" in found.cure


def test_of_two_roles_the_lesser_holds() -> None:
    found = client_of({}, certificate(["x"], uri(Role.ADMIN.urn), uri(Role.VIEWER.urn)))
    assert found.role is Role.VIEWER
    roles = {"x": Role.ADMIN, "x.example": Role.ATTACHER}
    assert client_of(roles, certificate(["x"], x509.DNSName("x.example"))).role is Role.ATTACHER


def test_the_configuration_has_the_last_word() -> None:
    pem = certificate(["manager"], x509.DNSName("m.example"), uri(Role.ADMIN.urn))
    assert client_of({"manager": Role.VIEWER}, pem).role is Role.VIEWER
    assert client_of({"m.example": Role.ATTACHER}, pem).role is Role.ATTACHER
    assert client_of({"other": Role.VIEWER}, pem).role is Role.ADMIN
    shut_out = client_of({"manager": Role.NONE}, pem)
    assert shut_out.role is Role.NONE and "shuts it out" in shut_out.cure


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("host.example:7/a@b", "host.example:7/a@b"),
        ("unix socket", "'unix socket'"),
        ("a\nb admin", r"'a\nb admin'"),
        ("\x1b[31mred", r"'\x1b[31mred'"),
        ("x\u202ey", r"'x\u202ey'"),
        ("it's", '"it\'s"'),
    ],
)
def test_odd_names_are_shown_as_what_they_are(name: str, shown: str) -> None:
    assert client_of({}, certificate([name])).identity == shown


def test_a_certificate_without_names_or_that_cannot_be_read_has_no_role() -> None:
    assert client_of({}, certificate([])).identity == "unnamed certificate"
    broken = client_of({}, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert broken.role is Role.NONE


def call(peer: str, pem: bytes = b"") -> grpc.ServicerContext:
    identity = {"x509_pem_cert": [pem]} if pem else {}
    context = SimpleNamespace(peer=lambda: peer, auth_context=lambda: identity)
    return cast(grpc.ServicerContext, context)


def test_who_calls_is_told_by_the_connection() -> None:
    clients = Clients(Config(pools=(), listen="192.0.2.1:1"))
    assert clients.of(call("unix:")) is UNIX_SOCKET
    assert clients.of(call("ipv4:127.0.0.1:1")) is NOBODY
    pem = certificate(["x"], uri(Role.VIEWER.urn))
    assert clients.of(call("ipv4:192.0.2.7:1", pem)).role is Role.VIEWER
    open_to_host = Clients(Config(pools=(), listen="127.0.0.1:1", listen_without_tls=True))
    assert open_to_host.of(call("ipv4:127.0.0.1:1")) is LOOPBACK


def test_new_roles_hold_for_certificates_that_were_seen() -> None:
    pem = certificate(["x"], uri(Role.ADMIN.urn))
    clients = Clients(Config(pools=()))
    assert clients.of(call("ipv4:192.0.2.7:1", pem)).role is Role.ADMIN
    clients.configure(Config(pools=(), roles={"x": Role.NONE}))
    assert clients.of(call("ipv4:192.0.2.7:1", pem)).role is Role.NONE


def test_each_client_is_counted_for_itself() -> None:
    limit = AtOnce(2, "calls")
    limit.enter("a")
    limit.enter("a")
    with pytest.raises(ResourceExhausted, match="a has 2 calls") as caught:
        limit.enter("a")
    assert caught.value.reason == "TOO_MANY_CALLS"
    limit.enter("b")
    limit.leave("a")
    limit.enter("a")
