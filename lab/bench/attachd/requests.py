"""The requests that must not become slower with the number of records."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from lab.bench.attachd.api import Api
from lab.bench.attachd.population import (
    ATTACHING_HOSTS,
    AVAILABLE,
    attachment_id,
    instance_uuid,
    volume_id,
    volume_name,
)
from lab.errors import LabError

# Of a page. Fewer than the least volumes that it is measured with, so that all pages are full.
PAGE = 50
# By name: the most statements that each may need, whatever there is. BEGIN is one, COMMIT none.
STATEMENTS: Mapping[str, int] = {
    "volumes, first page": 2,
    "volumes, late page": 3,
    "volumes by status": 2,
    "volumes by name": 2,
    "attachments, first page": 1,
    "attachments, late page": 2,
    "attachments of a volume": 1,
    "attachments of an instance": 1,
    "show volume": 2,
    "show attachment": 4,
    "create volume": 8,
    "create attachment": 10,
    "delete attachment": 10,
    "delete volume": 10,
}


class Requests:
    """To a site with that many volumes. One that returns has had the answer that it should."""

    def __init__(self, api: Api, count: int) -> None:
        self._api, self._count = api, count
        # The same in every run.
        self._random = random.Random(count)
        self._volume = self._attachment = ""
        # In this order: what one makes, others need.
        self.by_name: Mapping[str, Callable[[], None]] = {
            "volumes, first page": lambda: self._list("volumes", PAGE),
            "volumes, late page": lambda: self._list("volumes", PAGE, marker=volume_id(PAGE)),
            "volumes by status": lambda: self._list("volumes", AVAILABLE, status="available"),
            "volumes by name": lambda: self._list("volumes", 1, name=volume_name(self._any())),
            "attachments, first page": lambda: self._list("attachments", PAGE),
            "attachments, late page": self._late_attachments,
            "attachments of a volume": lambda: self._list(
                "attachments", len(ATTACHING_HOSTS), volume_id=volume_id(self._any())
            ),
            "attachments of an instance": lambda: self._list(
                "attachments", 1, instance_id=instance_uuid(self._any(), ATTACHING_HOSTS[0])
            ),
            "show volume": self._show_volume,
            "show attachment": self._show_attachment,
            "create volume": self._create_volume,
            "create attachment": self._create_attachment,
            "delete attachment": self._delete_attachment,
            "delete volume": self._delete_volume,
        }

    def _any(self) -> int:
        """The number of a volume that is attached."""
        return self._random.randrange(AVAILABLE, self._count)

    def _list(self, what: str, expected: int, **params: str) -> None:
        query = "&".join(f"{key}={value}" for key, value in params.items())
        found = self._api.ask("GET", f"{what}/detail?limit={PAGE}&{query}")[what]
        _check(f"{what} by {params}", len(found), expected)

    def _late_attachments(self) -> None:
        before = AVAILABLE + PAGE // len(ATTACHING_HOSTS)
        marker = attachment_id(before, ATTACHING_HOSTS[0])
        self._list("attachments", PAGE, marker=marker)

    def _show_volume(self) -> None:
        found = self._api.ask("GET", f"volumes/{volume_id(self._any())}")["volume"]
        _check("attachments of the volume", len(found["attachments"]), len(ATTACHING_HOSTS))

    def _show_attachment(self) -> None:
        id_ = attachment_id(self._any(), ATTACHING_HOSTS[0])
        found = self._api.ask("GET", f"attachments/{id_}")["attachment"]
        _check("status of the attachment", found["status"], "attached")

    def _create_volume(self) -> None:
        made = self._api.ask("POST", "volumes", {"volume": {"size": 1}})["volume"]
        self._volume = made["id"]

    def _create_attachment(self) -> None:
        self._attachment = self._api.create_attachment(self._volume)

    def _delete_attachment(self) -> None:
        self._api.delete_attachment(self._attachment)

    def _delete_volume(self) -> None:
        self._api.ask("DELETE", f"volumes/{self._volume}")


def _check(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise LabError(f"{what}: {found}, and not {expected}")
