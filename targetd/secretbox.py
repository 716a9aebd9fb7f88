"""CHAP secrets: made here, and encrypted with the host's key wherever they rest."""

from __future__ import annotations

import ctypes
import os
import secrets
from collections import deque
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from targetd.errors import StartError
from targetd.model import Credentials

KEY_BYTES = 32
# From linux/prctl.h.
PR_SET_DUMPABLE = 4
NONCE_BYTES = 12
# The most that is taken at once, and how many such are got from the kernel at once.
CHUNK_BYTES, CHUNKS = 80, 16
# No characters that look alike, none that a URL or a shell would read.
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
# The character that each byte stands for; the last bytes would favour the first characters.
CHARACTERS = bytes(ord(ALPHABET[byte % len(ALPHABET)]) for byte in range(256))
FAVOURING = bytes(range(256 - 256 % len(ALPHABET), 256))
USERNAME_LENGTH = 20
# Windows initiators take 12 to 16 characters, so this is the most that every
# initiator takes. 16 of these 57 characters hold 93 bits; RFC 7143 asks for 96.
PASSWORD_LENGTH = 16


class _Random:
    """The kernel's random bytes, got many at once: asking it costs more than all else here."""

    def __init__(self) -> None:
        # To take one is one step of the interpreter, so that no two get the same.
        self._chunks: deque[bytes] = deque()

    def take(self, count: int) -> bytes:
        """At most ``CHUNK_BYTES``; nobody gets the same ones again."""
        try:
            chunk = self._chunks.popleft()
        except IndexError:
            fresh = os.urandom(CHUNK_BYTES * CHUNKS)
            chunks = [fresh[at : at + CHUNK_BYTES] for at in range(0, len(fresh), CHUNK_BYTES)]
            chunk = chunks.pop()
            self._chunks.extend(chunks)
        return chunk[:count]


_random = _Random()


def new_credentials() -> Credentials:
    text = _random_text(USERNAME_LENGTH + PASSWORD_LENGTH)
    return Credentials(text[:USERNAME_LENGTH], text[USERNAME_LENGTH:])


def with_mutual(credentials: Credentials) -> Credentials:
    """The same, and with what the target proves itself with; never the same secret."""
    own = new_credentials()
    return replace(credentials, mutual_username=own.username, mutual_password=own.password)


def _random_text(length: int) -> str:
    """Each character as likely as any other; a byte that would favour some is left out."""
    text = b""
    while len(text) < length:
        # Some more than needed, since some are left out.
        text += _random.take(2 * length).translate(CHARACTERS, FAVOURING)
    return text[:length].decode()


def keep_out_of_core_dumps() -> None:
    """Have the kernel make no core dump of this process, also where it is piped to a program.

    There RLIMIT_CORE is only a hint. Programs that the daemon runs are not affected.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


class SecretBox:
    """Encrypts and decrypts with the host key; each text is bound to its record."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, text: str, record: str) -> bytes:
        nonce = _random.take(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), record.encode())

    def open(self, sealed: bytes, record: str) -> str:
        """Raises StartError when the key is not the one it was sealed with."""
        try:
            text = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], record.encode())
        except InvalidTag as error:
            raise StartError(
                "the host key does not open the stored secrets; restore the key file that "
                "belongs to this state, or remove the state to drop all connections"
            ) from error
        return text.decode()


def load_key(path: Path, create: bool) -> bytes:
    """Read the host key; make it when ``create`` says there is no state yet.

    Raises StartError when it cannot be read, has a wrong size, or is readable
    by others.
    """
    if create and not path.exists():
        _write_key(path)
    try:
        mode = path.stat().st_mode & 0o777
        key = path.read_bytes()
    except OSError as error:
        raise StartError(
            f"the host key {path} cannot be read ({error.strerror}); the stored secrets need "
            "it: restore it from the backup"
        ) from error
    if mode & 0o077:
        raise StartError(f"the host key {path} is open to others; run: chmod 600 {path}")
    if len(key) != KEY_BYTES:
        raise StartError(f"the host key {path} must hold {KEY_BYTES} bytes; restore it")
    return key


def _write_key(path: Path) -> None:
    # Under another name first: a power cut must not leave a short key.
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
