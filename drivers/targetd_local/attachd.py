"""attachd's attachments, as Block Storage v3 has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from targetd_local.errors import AttachdError
from targetd_local.transport import DEFAULT_SECONDS, DEFAULT_URL, Address, Transport

ATTACHED = "attached"
DELETED = 404


@dataclass(frozen=True)
class Attachment:
    id: str
    volume_id: str
    # Empty for one of a host itself.
    instance: str
    status: str
    mode: str
    # What is needed to log in. Its secret is only in the answers that grant it.
    connection_info: Mapping[str, Any] = field(repr=False)

    @property
    def is_attached(self) -> bool:
        return self.status == ATTACHED


class Attachd:
    """One attachd, for one project: that of the token, unless another is named.

    Every call raises AttachdError, Unreachable, and NotPossible for certificates that cannot be
    used. ``token`` is a secret: take it from a file.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        project: str = "",
        token: str = "",
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        seconds: float = DEFAULT_SECONDS,
    ) -> None:
        self.address = Address(url, ca, certificate, key)
        self._transport = Transport(self.address, project, token, seconds)

    def create(self, volume_id: str, connector: Mapping[str, Any], mode: str) -> Attachment:
        body = {"volume_uuid": volume_id, "connector": dict(connector), "mode": mode}
        return self._one("POST", "attachments", {"attachment": body})

    def update(self, attachment_id: str, connector: Mapping[str, Any]) -> Attachment:
        """The same connector again gets the same answer, with its secret."""
        body = {"attachment": {"connector": dict(connector)}}
        return self._one("PUT", _path(attachment_id), body)

    def complete(self, attachment_id: str) -> None:
        path = f"{_path(attachment_id)}/action"
        self._transport.request("POST", path, {"os-complete": None})

    def delete(self, attachment_id: str) -> None:
        """Not an error when there is none any more."""
        try:
            self._transport.request("DELETE", _path(attachment_id))
        except AttachdError as error:
            if error.code != DELETED:
                raise

    def attachments(self, volume_id: str, host: str) -> list[Attachment]:
        """Those of a volume on a host, whoever made them."""
        query = urlencode({"volume_id": volume_id, "attached_host": host})
        found = self._transport.request("GET", f"attachments/detail?{query}")
        try:
            return [_attachment(one) for one in found["attachments"]]
        except (KeyError, TypeError):
            raise _malformed() from None

    def volumes(self) -> list[tuple[str, str]]:
        """The ids of the first of them, each with its status."""
        found = self._transport.request("GET", "volumes/detail")
        try:
            return [(one["id"], one["status"]) for one in found["volumes"]]
        except (KeyError, TypeError):
            raise _malformed() from None

    def _one(self, method: str, path: str, body: Mapping[str, Any]) -> Attachment:
        found = self._transport.request(method, path, body)
        try:
            return _attachment(found["attachment"])
        except (KeyError, TypeError):
            raise _malformed() from None


def _path(attachment_id: str) -> str:
    return f"attachments/{quote(attachment_id, safe='')}"


def _attachment(found: Mapping[str, Any]) -> Attachment:
    return Attachment(
        id=found["id"],
        volume_id=found["volume_id"],
        instance=found.get("instance") or "",
        status=found["status"],
        mode=found.get("attach_mode") or "",
        connection_info=found.get("connection_info") or {},
    )


def _malformed() -> AttachdError:
    return AttachdError("attachd's answer has not the shape of Block Storage v3", 500)
