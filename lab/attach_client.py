"""A client of attachd that is told everything: what was refused, and what had no answer."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlencode

from lab.attachd import PORT, AttachmentManager
from lab.errors import LabError
from lab.network import Network

# Every call is answered within that, whatever storage hosts and networks do.
ANSWER_SECONDS = 60.0
HEADERS = {"OpenStack-API-Version": "volume 3.71", "Content-Type": "application/json"}
PROJECT = "lab"
ERRORS = 400
POLL_SECONDS = 0.1
CODES_UNCERTAIN = (503, 504)
CONFLICT, NOT_FOUND = 409, 404


class NoAnswer(LabError):
    """attachd ended before it answered, or is not there."""


class Failed(LabError):
    """attachd's answer is an error."""

    def __init__(self, what: str, code: int, message: str) -> None:
        super().__init__(f"{what}: {code}: {message}")
        self.code = code

    @property
    def is_busy(self) -> bool:
        """Nothing was begun: somebody else is at work on the volume."""
        return self.code == CONFLICT and " is busy: " in str(self)

    @property
    def is_uncertain(self) -> bool:
        """A storage host did not answer; what is left is settled in the background."""
        return self.code in CODES_UNCERTAIN


class _InLab(HTTPSConnection):
    """Into the lab's network; its thread stays where it is."""

    def __init__(self, network: Network, manager: AttachmentManager) -> None:
        self._network = network
        context = ssl.create_default_context(cafile=str(manager.ca))
        super().__init__(manager.address, PORT, timeout=ANSWER_SECONDS, context=context)

    def connect(self) -> None:
        with self._network.entered():
            super().connect()


class AttachClient:
    """For one thread. Every call raises Failed, NoAnswer."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    @classmethod
    def in_lab(cls, network: Network, manager: AttachmentManager) -> AttachClient:
        return cls(_InLab(network, manager))

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Any = None, **params: str) -> Any:
        what = f"{method} {path}"
        kept = self._connection.sock is not None
        try:
            code, text = self._answer(method, f"/v3/{PROJECT}/{path}?{urlencode(params)}", body)
        except TimeoutError as error:
            self.close()
            raise LabError(f"{what}: no answer in {ANSWER_SECONDS:g} s") from error
        except (OSError, HTTPException) as error:
            self.close()
            if kept and method == "GET":
                # It may have been of an attachd that has ended long since.
                return self.ask(method, path, body, **params)
            raise NoAnswer(f"{what}: {error}") from error
        found: Any = json.loads(text) if text else None
        if code < ERRORS:
            return found
        (fault,) = found.values()
        raise Failed(what, code, fault["message"])

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, HEADERS)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    # Volumes

    def create_volume(self, *, multiattach: bool = False, place: str | None = None) -> str:
        """Returns its id when it is available."""
        kind = "multiattach" if multiattach else "default"
        wanted = {"size": 1, "volume_type": kind, "availability_zone": place}
        made = self.ask("POST", "volumes", {"volume": wanted})["volume"]
        wait_until(lambda: self.volume(made["id"])["status"] == "available", f"volume {made['id']}")
        return str(made["id"])

    def volume(self, volume_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.ask("GET", f"volumes/{volume_id}")["volume"]
        return found

    def delete_volume(self, volume_id: str) -> None:
        self.ask("DELETE", f"volumes/{volume_id}")

    def act(self, volume_id: str, action: str, **content: Any) -> Any:
        """One of the volume's actions, such as os-reserve."""
        return self.ask("POST", f"volumes/{volume_id}/action", {action: content or None})

    # Attachments

    def create(self, volume_id: str, **more: Any) -> Mapping[str, Any]:
        """``more``: instance_uuid, connector, mode."""
        body = {"attachment": {"volume_uuid": volume_id, **more}}
        found: Mapping[str, Any] = self.ask("POST", "attachments", body)["attachment"]
        return found

    def update(self, attachment_id: str, connector: Mapping[str, Any]) -> Mapping[str, Any]:
        body = {"attachment": {"connector": dict(connector)}}
        found: Mapping[str, Any] = self.ask("PUT", f"attachments/{attachment_id}", body)
        return _part(found, "attachment")

    def complete(self, attachment_id: str) -> None:
        self.ask("POST", f"attachments/{attachment_id}/action", {"os-complete": None})

    def delete(self, attachment_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.ask("DELETE", f"attachments/{attachment_id}")
        return found

    def attachment(self, attachment_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.ask("GET", f"attachments/{attachment_id}")
        return _part(found, "attachment")

    def attachments(self, **where: str) -> list[Mapping[str, Any]]:
        """Those with, for one, that volume_id or instance_id."""
        found: list[Mapping[str, Any]] = self.ask("GET", "attachments/detail", **where)[
            "attachments"
        ]
        return found

    def is_there(self, attachment_id: str) -> bool:
        try:
            self.attachment(attachment_id)
        except Failed as error:
            if error.code != NOT_FOUND:
                raise
            return False
        return True


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] = found[name]
    return part


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = ANSWER_SECONDS) -> None:
    """Raises LabError."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise LabError(f"{what}: not so after {seconds:g} s")
        time.sleep(POLL_SECONDS)
