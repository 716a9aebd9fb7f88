"""The secrets of connections: masked in the records, and sealed beside that with a key file.

It is targetd's secret box, with a key of attachd's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from attachd.errors import AttachError
from attachd.model import MASK, ConnectionInfo
from targetd.errors import StartError
from targetd.secretbox import SecretBox, load_key

SECRET_KEYS = ("auth_password", "mutual_auth_password")


@dataclass(frozen=True)
class Sealed:
    """Connection information as it rests."""

    masked: ConnectionInfo
    secrets: bytes


class Sealing:
    def __init__(self, key: bytes) -> None:
        self._box = SecretBox(key)

    @classmethod
    def with_key_file(cls, path: Path, create: bool) -> Sealing:
        """``create`` when there are no records yet. Raises StartError."""
        return cls(load_key(path, create))

    def seal(self, attachment_id: str, info: ConnectionInfo) -> Sealed:
        secrets = {key: info[key] for key in SECRET_KEYS if info.get(key)}
        masked = {**info, **dict.fromkeys(secrets, MASK)}
        return Sealed(masked, self._box.seal(json.dumps(secrets), _record(attachment_id)))

    def opened(self, attachment_id: str, masked: ConnectionInfo, secrets: bytes) -> ConnectionInfo:
        """Raises AttachError when the key is not the one that they were sealed with."""
        try:
            found = self._box.open(secrets, _record(attachment_id))
        except StartError as error:
            raise AttachError(
                "attachd's key does not open the secrets in its records; restore the key file that "
                "belongs to them, or detach and attach again"
            ) from error
        return {**masked, **json.loads(found)}


def _record(attachment_id: str) -> str:
    return f"attachment/{attachment_id}"
