"""Block Storage v3 as its clients speak it: plain HTTP over a connection that is kept."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any

# Cinder takes hexadecimal digits only.
PROJECT = "5ee8c1d8a6f84ec2b1f7b1a5c0b0d001"
MICROVERSION = "3.71"
# Both sites are served without identity: who calls says so himself.
HEADERS = {
    "X-Auth-Token": f"bench:{PROJECT}",
    "OpenStack-API-Version": f"volume {MICROVERSION}",
    "Content-Type": "application/json",
    "Accept": "application/json",
}
CALL_SECONDS = 300.0


class ApiError(Exception):
    """The call was answered with something else than success, or not at all."""


class Api:
    """One client, with a connection of its own."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, CALL_SECONDS)

    def connect(self) -> None:
        """Raises OSError."""
        self._connection.connect()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The document of the answer, None when it has none. Raises ApiError."""
        text = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, f"/v3/{PROJECT}/{path}", text, HEADERS)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            # The next call makes a new connection.
            self._connection.close()
            raise ApiError(f"{method} {path}: {error!r}") from error
        if not 200 <= response.status < 300:
            raise ApiError(f"{method} {path}: {response.status} {content.decode()}")
        return json.loads(content) if content else None

    def create_attachment(self, volume_id: str) -> str:
        """With a connector, as a host that attaches it at once. Raises ApiError."""
        wanted = {"volume_uuid": volume_id, "connector": connector(volume_id)}
        made = self.ask("POST", "attachments", {"attachment": wanted})
        return str(made["attachment"]["id"])

    def delete_attachment(self, attachment_id: str) -> None:
        """Raises ApiError."""
        self.ask("DELETE", f"attachments/{attachment_id}")

    def close(self) -> None:
        self._connection.close()


def connector(volume_id: str) -> dict[str, Any]:
    """As os-brick gathers it, of a host that has this volume only."""
    return {
        "initiator": f"iqn.2026-01.org.example.bench:{volume_id}",
        "host": f"host-{volume_id}",
        "ip": "192.0.2.10",
        "platform": "x86_64",
        "os_type": "linux",
        "multipath": False,
        "do_local_attach": False,
        "system uuid": volume_id,
    }
