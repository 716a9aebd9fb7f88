"""The daemon's certificate and the clients' authority, read anew when their files change."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from targetd.config import TlsConfig
from targetd.errors import StartError

log = logging.getLogger(__name__)

# Handshakes closer together than this do not look at the files again.
LOOK_SECONDS = 1.0
EXPIRY_WARNING = timedelta(days=14)
Stamp = tuple[tuple[int, int, int], ...]


class Certificates:
    """Connections that are open keep the certificates that they were made with."""

    def __init__(self, files: TlsConfig) -> None:
        """Raises StartError, naming the file and the cure."""
        self._lock = threading.Lock()
        self._files = files
        self._seen = _stamp(files)
        self._looked = time.monotonic()
        self._current = self._given = load(files)

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._given,
            # gRPC documents None for "as before"; its type stubs do not know.
            cast(Callable[[], grpc.ServerCertificateConfiguration], self._for_handshake),
            require_client_authentication=True,
        )

    def reload(self, files: TlsConfig) -> None:
        """Read the files now. Raises StartError when they are not right; nothing changes then."""
        with self._lock:
            stamp = _stamp(files)
            self._current = load(files)
            self._files, self._seen = files, stamp

    def _for_handshake(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks before each handshake."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._looked = time.monotonic()
                stamp = _stamp(self._files)
                if stamp != self._seen:
                    # What is written while we read has another stamp next time.
                    self._seen = stamp
                    self._try()
            if self._current is self._given:
                return None
            self._given = self._current
            return self._current

    def _try(self) -> None:
        try:
            self._current = load(self._files)
        except StartError as error:
            log.error("new certificates are not used, the old ones stay: %s", error)
        else:
            log.info("certificates were read: %s", self._files.certificate)


def load(files: TlsConfig) -> grpc.ServerCertificateConfiguration:
    """Raises StartError when gRPC would not get along with the files, naming the cure."""
    certificate, authority = _bytes(files.certificate), _bytes(files.client_ca)
    key = _bytes(files.key, secret=True)
    leaf = _certificates(files.certificate, certificate)[0]
    _certificates(files.client_ca, authority)
    if _public_key(files.key, key) != leaf.public_key():
        raise StartError(
            f"{files.key} is not the key of {files.certificate}: put the two that belong together"
        )
    _warn_of_expiry(files.certificate, leaf)
    return grpc.ssl_server_certificate_configuration(
        [(key, certificate)], root_certificates=authority
    )


def _stamp(files: TlsConfig) -> Stamp:
    """Other than before when a file was written, replaced, or came or went."""
    found = []
    for path in (files.certificate, files.key, files.client_ca):
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _bytes(path: Path, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            if secret and os.fstat(file.fileno()).st_mode & 0o007:
                raise StartError(f"the key {path} is open to others; run: chmod o= {path}")
            return file.read()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}; see [tls]") from error


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise StartError(
            f"{path} holds no certificate (PEM); make one with lunctl tls, see [tls]"
        ) from error


def _public_key(path: Path, pem: bytes) -> object:
    try:
        return load_pem_private_key(pem, password=None).public_key()
    # Never the library's own words: they might tell of the key.
    except (ValueError, UnsupportedAlgorithm):
        raise StartError(f"{path} holds no key (PEM), see [tls]") from None
    except TypeError:
        raise StartError(f"the key {path} has a passphrase; give it without one") from None


def _warn_of_expiry(path: Path, leaf: x509.Certificate) -> None:
    """A certificate out of its time is served all the same: the clock may be what is wrong."""
    now, end = datetime.now(UTC), leaf.not_valid_after_utc
    if not leaf.not_valid_before_utc <= now or end <= now + EXPIRY_WARNING:
        log.warning(
            "the certificate %s is valid from %s to %s: issue a new one in time, or set the clock",
            path,
            leaf.not_valid_before_utc.isoformat(),
            end.isoformat(),
        )
