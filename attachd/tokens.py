"""Bearer tokens: each is of one project. The records have a digest of it, never the token."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from attachd import clock
from attachd.database.engine import Database
from attachd.database.schema import tokens
from attachd.errors import InUse, Invalid, NotFound

# Found by those who look for secrets in files.
PREFIX = "attachd_"
# 256 bits, so that a plain digest is enough: nobody can try them all.
SECRET_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,254}")
# How long a token that was removed may still be taken, by each attachd.
REMEMBERED_SECONDS = 5.0
REMEMBERED_MAX = 10_000


@dataclass(frozen=True)
class Token:
    name: str
    project_id: str
    is_admin: bool
    create_time: datetime


class Tokens:
    """Safe for use by several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        # By digest: what was found, and until when it is believed.
        self._remembered: dict[str, tuple[Token, float]] = {}

    def add(self, project_id: str, *, is_admin: bool = False, name: str = "") -> str:
        """Returns the token, which nobody can get again. Raises Invalid, InUse."""
        for what, text in (("project", project_id), ("name", name)):
            if (text or what == "project") and not NAME.fullmatch(text):
                raise Invalid(f'{what}: "{text}" may have letters, digits, ".", "_", "@" and "-"')
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        record = {
            "sha256": _digest(secret),
            "name": name or f"{project_id[:200]}-{secrets.token_hex(4)}",
            "project_id": project_id,
            "is_admin": is_admin,
            "create_time": clock.now(),
        }
        try:
            with self._database.writing() as connection:
                connection.execute(insert(tokens).values(record))
        except IntegrityError:
            raise InUse(
                f"there is a token named {name} already: remove it (attachd token remove {name}), "
                "or give another name"
            ) from None
        return secret

    def list(self) -> Sequence[Token]:
        """By name."""
        with self._database.reading() as connection:
            rows = connection.execute(_SELECT.order_by(tokens.c.name)).all()
        return [Token(**row._mapping) for row in rows]

    def remove(self, name: str) -> None:
        """Raises NotFound."""
        with self._database.writing() as connection:
            found = connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount
        if not found:
            raise NotFound("Token", name)

    def find(self, secret: str) -> Token | None:
        """Whose it is. Asks the records at most every few seconds for each."""
        digest = _digest(secret)
        known = self._remembered.get(digest)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        with self._database.reading() as connection:
            row = connection.execute(_SELECT.where(tokens.c.sha256 == digest)).one_or_none()
        with self._lock:
            if row is None or len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.pop(digest, None)
            if row is None:
                return None
            token = Token(**row._mapping)
            if len(self._remembered) < REMEMBERED_MAX:
                self._remembered[digest] = token, time.monotonic() + REMEMBERED_SECONDS
        return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


_SELECT = select(tokens.c.name, tokens.c.project_id, tokens.c.is_admin, tokens.c.create_time)
