"""Who calls: read from the connection, never from the request."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import NamedTuple
from urllib.parse import unquote

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from targetd.config import Config
from targetd.roles import URN_PREFIX, Role, least

log = logging.getLogger(__name__)

# Names of certificates come from authorities that may not be ours, and go to logs.
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/-]{0,63}")
NAME_LENGTH_MAX = 64
CERTIFICATES_KNOWN = 1024
NO_ROLE = (
    f"its certificate has no alternative name {URN_PREFIX}ROLE, and the configuration's [roles] "
    "none of its names"
)
SHUT_OUT = "the configuration's [roles] shuts it out"
NO_CERTIFICATE = "it showed no certificate"


class Client(NamedTuple):
    """``identity`` is printable and short; ``cure`` says why there is no role."""

    identity: str
    role: Role
    cure: str = ""


# Whoever may open the socket is trusted: its directory says who that is.
UNIX_SOCKET = Client("unix socket", Role.ADMIN)
# Only where the configuration allows it: any process of this host.
LOOPBACK = Client("loopback", Role.ADMIN)
NOBODY = Client("nobody", Role.NONE, NO_CERTIFICATE)


class Clients:
    """Tells the client of each call; certificates are read once."""

    def __init__(self, config: Config) -> None:
        without_tls = bool(config.listen) and config.listen_without_tls and config.tls is None
        self._without_tls = LOOPBACK if without_tls else NOBODY
        self.configure(config)

    def configure(self, config: Config) -> None:
        """New roles hold from the next call on, on open connections too."""
        self._read = lru_cache(CERTIFICATES_KNOWN)(partial(client_of, dict(config.roles)))

    def of(self, context: grpc.ServicerContext) -> Client:
        if context.peer().startswith("unix:"):
            return UNIX_SOCKET
        pem = context.auth_context().get("x509_pem_cert")
        return self._read(pem[0]) if pem else self._without_tls


def client_of(roles: Mapping[str, Role], pem: bytes) -> Client:
    """The client of a certificate that TLS has verified. ``roles`` has the last word."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        subjects = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        dns_names, uris = _alternative_names(certificate)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        log.warning("a client's certificate cannot be read: %s", ascii(str(error)))
        return Client("unreadable certificate", Role.NONE, "its certificate cannot be read")
    names = [*(str(subject.value) for subject in subjects), *dns_names]
    identity = shown_name(names[0]) if names else "unnamed certificate"
    configured = [roles[name] for name in names if name in roles]
    if configured:
        role = least(configured)
        return Client(identity, role, SHUT_OUT if role is Role.NONE else "")
    role = least([role for role in Role if role.urn in uris])
    return Client(identity, role, NO_ROLE if role is Role.NONE else "")


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """DNS names and URIs."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    return (
        names.get_values_for_type(x509.DNSName),
        names.get_values_for_type(x509.UniformResourceIdentifier),
    )


def shown_name(name: str) -> str:
    """As it is, or quoted with everything odd escaped, so that it can pass for nothing else."""
    return name if PLAIN_NAME.fullmatch(name) else ascii(name[:NAME_LENGTH_MAX])


def shown_peer(context: grpc.ServicerContext) -> str:
    """The address that the call came from, like ``ipv4:192.0.2.7:40312`` or ``unix:``."""
    peer = context.peer()
    return unquote(peer) if "%" in peer else peer
