"""What is done on a storage host for attachments: access given, taken away, and looked at."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Protocol

from targetd_driver import DriverError, NotFound, Refused, TargetdDriver
from targetd_driver.connections import Connection, Connections

from attachd.errors import Invalid, of_driver
from attachd.model import (
    Attachment,
    ConnectionInfo,
    Connector,
    SharedConnection,
    Volume,
)

log = logging.getLogger(__name__)

# Who shares a volume is told beside what was asked for: not worth a long wait.
SHARED_SECONDS = 5.0
# targetd's reason.
NOT_EXPORTED = "NOT_EXPORTED"


class Drivers(Protocol):
    def driver(self, name: str) -> TargetdDriver:
        """Of that storage host. Raises AttachError."""

    def exported(self, name: str) -> set[str]:
        """The volumes there that had a target when this process looked last."""


class Grants:
    """The storage host of one volume. Calls raise DriverError unless they say otherwise."""

    def __init__(self, hosts: Drivers, volume: Volume) -> None:
        """Raises AttachError when its storage host cannot be called."""
        self._driver = hosts.driver(volume.host)
        self._exported = hosts.exported(volume.host)
        self._volume = {"id": volume.id}
        self.host = volume.host

    def give(self, attachment: Attachment) -> ConnectionInfo:
        """Access for its connector's initiator; the same call again gives the same answer.

        Flat, as the field's attachments have it, with secrets.
        """
        if self._volume["id"] not in self._exported:
            self._create_export()
        try:
            answer = self._initialize(attachment)
        except (NotFound, Refused) as error:
            if error.reason != NOT_EXPORTED:
                raise
            # Somebody has removed it since.
            self._create_export()
            answer = self._initialize(attachment)
        return {"driver_volume_type": answer["driver_volume_type"], **answer["data"]}

    def _create_export(self) -> None:
        self._driver.create_export(None, self._volume)
        self._exported.add(self._volume["id"])

    def _initialize(self, attachment: Attachment) -> dict[str, Any]:
        assert attachment.connector is not None
        return self._driver.initialize_connection(
            self._volume, attachment.connector, attachment.id, attachment.attach_mode
        )

    def revoke(self, attachment_id: str) -> bool:
        """Returns, when no access is left, whether others have access to the volume."""
        try:
            return self._driver.terminate_connection(
                self._volume, None, attachment_id=attachment_id
            )
        except NotFound:
            # Nobody has access to a volume that is not there.
            return False

    def take_back(self, attachment_id: str) -> bool:
        """As ``revoke``, of what nobody was told of: a target that was made for it goes too."""
        shared = self.revoke(attachment_id)
        if not shared:
            self._remove_export()
        return shared

    def remove_idle_export(self) -> None:
        """The target of a volume that nobody has access to."""
        self._exported.discard(self._volume["id"])
        with suppress(Refused):
            self._driver.remove_export(None, self._volume)

    def take_all(self, connector: Connector | None) -> None:
        """Of that initiator, or of everybody, whatever the records say."""
        self._driver.terminate_connection(self._volume, connector, force=True)
        self._remove_export()

    def _remove_export(self) -> None:
        # A target that nobody has access to does no harm; the reconciler removes it.
        try:
            self.remove_idle_export()
        except DriverError as error:
            log.warning("volume %s: its target stays: %s", self._volume["id"], error)

    def seen(self, attachment_id: str) -> Connection | None:
        """What the host has of it; None when that is nothing."""
        try:
            return self._driver.connections.get(self._volume["id"], attachment_id)
        except NotFound:
            return None

    def others(self, attachment_id: str) -> tuple[SharedConnection, ...]:
        """Who else has access to the volume, as the kernel says now. Raises AttachError."""
        volume_id = self._volume["id"]
        try:
            connections = self._driver.connections.within(SHARED_SECONDS)
            ids = [one.attachment_id for one in connections.list(volume_id)]
            found = [self._seen(connections, id_) for id_ in ids if id_ != attachment_id]
        except DriverError as error:
            raise of_driver(error, self.host) from error
        return tuple(one for one in found if one is not None)

    def _seen(self, connections: Connections, attachment_id: str) -> SharedConnection | None:
        # The list has logins as they were when the host looked last.
        try:
            one = connections.get(self._volume["id"], attachment_id)
        except NotFound:
            return None
        return SharedConnection(
            one.attachment_id, one.initiator, one.host, one.authorized, one.logged_in
        )


def is_as_recorded(granted: Connection | None, attachment: Attachment) -> bool:
    """Whether the access of one that should have it is its connector's, in its mode."""
    return granted is not None and (granted.initiator.lower(), granted.access_mode) == (
        initiator_of(attachment.connector),
        attachment.attach_mode,
    )


def validate_connector(driver: TargetdDriver, host: str, connector: Connector) -> None:
    """Before an access that works is given up for a new one. Raises AttachError."""
    try:
        driver.validate_connector(connector)
    except DriverError as error:
        raise of_driver(error, host) from error


def initiator_of(connector: Connector | None) -> str:
    """Whatever is not its name does not tell one initiator from another."""
    return str((connector or {}).get("initiator") or "").lower()


def checked(connector: Connector) -> Connector:
    """Raises Invalid; the storage host checks the rest before it gives access."""
    if not initiator_of(connector):
        raise Invalid(
            'connector: has no "initiator"; give what os-brick says of the attaching host, as '
            "`cinder get-connector` prints it"
        )
    return dict(connector)
