"""A certificate authority for a lab or a small site: the files that mutual TLS needs.

``init`` makes the authority in a folder, ``issue_server`` and ``issue_client`` make
certificates by it: ``NAME.pem`` and ``NAME.key`` beside ``ca.pem`` and ``ca.key``.
Keys are readable by their owner only, and no key is ever overwritten. The daemon
needs ``ca.pem`` and a server's two files, a client ``ca.pem`` and its own two;
``ca.key`` is best kept on neither.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from targetd.roles import Role

AUTHORITY_VALID = timedelta(days=3650)
VALID = timedelta(days=365)
# Clocks of hosts differ.
BEFORE = timedelta(hours=1)
CA_CERTIFICATE, CA_KEY = "ca.pem", "ca.key"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
HOST_NAME = re.compile(
    r"(?=.{1,253}$)(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


class AuthorityError(Exception):
    """A certificate was not made; the message says why and what to do."""


class AlreadyThere(AuthorityError):
    """Files with these names exist, and keys are never overwritten."""


class NoAuthority(AuthorityError):
    """The folder holds no authority, or one that cannot be read."""


class BadName(AuthorityError):
    """A name or an address cannot stand in a certificate or be a file's name."""


class BadKey(AuthorityError):
    """A key that is there is not one that this module makes."""


class CannotWrite(AuthorityError):
    """The folder cannot be read or written."""


class Pair(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """An authority in memory. Its certificates are for one end each: server or client."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str = "targetd") -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        builder = _builder(subject, subject, key.public_key(), datetime.now(UTC) + AUTHORITY_VALID)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def pair(self) -> Pair:
        return Pair(self._certificate.public_bytes(Encoding.PEM), _key_pem(self._key))

    @property
    def certificate(self) -> bytes:
        return self.pair.certificate

    def server(
        self, name: str, addresses: Sequence[str], valid: timedelta = VALID, key: bytes = b""
    ) -> Pair:
        """For a daemon that clients reach at these host names and IP addresses."""
        names = [_address(address) for address in addresses]
        return self._issue(name, names, ExtendedKeyUsageOID.SERVER_AUTH, valid, key)

    def client(self, name: str, role: Role, valid: timedelta = VALID, key: bytes = b"") -> Pair:
        """``key`` is one that the client has already, as PEM; otherwise one is made."""
        names = [x509.UniformResourceIdentifier(role.urn)]
        return self._issue(name, names, ExtendedKeyUsageOID.CLIENT_AUTH, valid, key)

    def _issue(
        self,
        name: str,
        names: Sequence[x509.GeneralName],
        end: x509.ObjectIdentifier,
        valid: timedelta,
        pem: bytes,
    ) -> Pair:
        key = _load_key(pem) if pem else ec.generate_private_key(ec.SECP256R1())
        # None outlives the authority, with which it would end anyway, less plainly.
        until = min(datetime.now(UTC) + valid, self._certificate.not_valid_after_utc)
        issuer = self._certificate.subject
        certificate = (
            _builder(_subject(name), issuer, key.public_key(), until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([end]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Pair(certificate.public_bytes(Encoding.PEM), _key_pem(key))


def init(folder: Path, name: str = "targetd") -> list[Path]:
    """Make an authority; returns the files written. Raises AuthorityError."""
    places = folder / CA_CERTIFICATE, folder / CA_KEY
    for place in places:
        if place.exists():
            raise AlreadyThere(
                f"{place} is there already: an authority is never overwritten. Use it, or "
                "another folder"
            )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be made: {error.strerror}") from error
    return _write_pair(places, Authority.new(name).pair)


def issue_server(
    folder: Path, name: str, addresses: Sequence[str], valid: timedelta = VALID, renew: bool = False
) -> list[Path]:
    """A server's certificate; returns the files written. Raises AuthorityError.

    With ``renew`` a key that is there is kept, and only its certificate written.
    """
    if not addresses:
        raise BadName(f"{name}: give the host names or addresses that clients will use")
    authority, places = open_authority(folder), _places(folder, name)
    key = _known_key(places, renew)
    return _write_pair(places, authority.server(name, addresses, valid, key), bool(key))


def issue_client(
    folder: Path, name: str, role: Role, valid: timedelta = VALID, renew: bool = False
) -> list[Path]:
    """A client's certificate with its role, otherwise like ``issue_server``."""
    if role is Role.NONE:
        raise BadName("a certificate is for the role viewer, attacher or admin")
    authority, places = open_authority(folder), _places(folder, name)
    key = _known_key(places, renew)
    return _write_pair(places, authority.client(name, role, valid, key), bool(key))


def open_authority(folder: Path) -> Authority:
    """Raises NoAuthority."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / CA_CERTIFICATE).read_bytes())
        key = _load_key((folder / CA_KEY).read_bytes())
    except FileNotFoundError as error:
        raise NoAuthority(
            f"{error.filename} is not there: make an authority first (lunctl tls init {folder})"
        ) from error
    except OSError as error:
        raise NoAuthority(f"{error.filename} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise NoAuthority(f"{folder / CA_CERTIFICATE} is not a certificate (PEM)") from error
    except BadKey as error:
        raise NoAuthority(f"{folder / CA_KEY}: {error}") from error
    if key.public_key() != certificate.public_key():
        raise NoAuthority(f"{folder / CA_KEY} is not the key of {CA_CERTIFICATE} beside it")
    return Authority(certificate, key)


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    if not NAME.fullmatch(name) or name == "ca":
        raise BadName(
            f"{name!a}: a name is 1 to 63 of the characters A-Z a-z 0-9 . _ -, the first a "
            'letter or digit, and not "ca"'
        )
    return folder / f"{name}.pem", folder / f"{name}.key"


def _known_key(places: tuple[Path, Path], renew: bool) -> bytes:
    """The key that is kept, or nothing. Raises AlreadyThere where it was not to be renewed."""
    there = [place for place in places if place.exists()]
    if there and not renew:
        raise AlreadyThere(f"{there[0]} is there already: renew it, or take another name")
    if not places[1].exists():
        return b""
    try:
        pem = places[1].read_bytes()
        _load_key(pem)
    except OSError as error:
        raise CannotWrite(f"{places[1]} cannot be read: {error.strerror}") from error
    except BadKey as error:
        raise BadKey(f"{places[1]}: {error}; move it away to have a new one") from None
    return pem


def _write_pair(places: tuple[Path, Path], pair: Pair, key_is_there: bool = False) -> list[Path]:
    """The key first: a certificate without its key would be of no use."""
    certificate, key = places
    written = []
    if not key_is_there:
        _write(key, pair.key, 0o600, overwrite=False)
        written.append(key)
    _write(certificate, pair.certificate, 0o644, overwrite=True)
    return [*written, certificate]


def _write(place: Path, data: bytes, mode: int, overwrite: bool) -> None:
    """All of it or nothing, durably: under another name first."""
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        try:
            # A link does not replace what is there, as a rename would.
            (os.replace if overwrite else os.link)(part, place)
        finally:
            part.unlink(missing_ok=True)
        _sync_folder(place.parent)
    except FileExistsError as error:
        raise AlreadyThere(f"{place} is there already; no key is ever overwritten") from error
    except OSError as error:
        raise CannotWrite(f"{place} cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _address(address: str) -> x509.GeneralName:
    """Raises BadName for what is neither an IP address nor a host's name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        if HOST_NAME.fullmatch(address):
            return x509.DNSName(address)
    raise BadName(f"{address!a} is neither an IP address nor the name of a host")


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - BEFORE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises BadKey. Never with the library's own words, which might tell of the key."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKey("it is not a key (PEM, without a passphrase)") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadKey("it is not a key of an elliptic curve, as these are")
    return key
