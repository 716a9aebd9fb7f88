"""The calls of the field's volume drivers, answered by a targetd storage host."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from targetd.api.v1 import export_pb2, export_pb2_grpc
from targetd_driver.calls import Calls
from targetd_driver.channel import Endpoint
from targetd_driver.connections import Connections
from targetd_driver.errors import InvalidConnector, InvalidInput
from targetd_driver.exports import Exports
from targetd_driver.host import Operations, StorageHost
from targetd_driver.snapshots import Snapshots
from targetd_driver.volumes import Volumes

DEFAULT_TIMEOUT_SECONDS = 30.0
# Attachment ids for layers that have none, made from the volume and the initiator:
# the same pair gives the same id, so that a repeated call is a repetition.
ATTACHMENT_NAMESPACE = uuid.UUID("6d7c1b7e-6b0c-4f0e-9c37-2f6f3f0d2c55")
MODES = {"rw": export_pb2.ACCESS_MODE_RW, "ro": export_pb2.ACCESS_MODE_RO}
OPTIONAL_PROPERTIES = (
    "logical_block_size",
    "physical_block_size",
    "mutual_auth_username",
    "mutual_auth_password",
)


class TargetdDriver:
    """One storage host. Safe for use by several threads; close it when done.

    ``volume`` is anything with ``id`` as attribute or key: a Cinder volume or a
    plain mapping. Every call is idempotent and raises DriverError or a kind of it.
    What no volume driver of the field has is in the attributes: ``volumes``,
    ``snapshots``, ``exports``, ``connections``, ``operations`` and ``host``.
    """

    def __init__(
        self, endpoint: Endpoint, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        self._channel = endpoint.channel()
        self._stub = export_pb2_grpc.ExportServiceStub(self._channel)
        calls = Calls(self._channel, timeout_seconds)
        self._call = calls.call
        self.volumes = Volumes(calls)
        self.snapshots = Snapshots(calls)
        self.exports = Exports(calls)
        self.connections = Connections(calls)
        self.operations = Operations(calls)
        self.host = StorageHost(calls)

    def __enter__(self) -> TargetdDriver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def validate_connector(self, connector: Mapping[str, Any]) -> None:
        """Raises InvalidConnector, naming what is missing or wrong."""
        request = export_pb2.ValidateConnectorRequest(connector=_connector(connector))
        self._call(self._stub.ValidateConnector, request)

    def create_export(
        self, context: object, volume: Any, connector: Mapping[str, Any] | None = None
    ) -> dict[str, str | None]:
        """Make the volume's target; returns the model update of the field.

        ``provider_location`` is "portal[;portal...],1 iqn lun". ``provider_auth`` is
        None, since secrets belong to connections, but where the daemon is configured
        for one secret per export: then it is "CHAP user secret".
        """
        request = export_pb2.CreateExportRequest(volume_id=_volume_id(volume))
        export = self._call(self._stub.CreateExport, request)
        portals = ";".join(export.portals)
        return {
            "provider_location": f"{portals},1 {export.target_iqn} {export.target_lun}",
            "provider_auth": (
                f"CHAP {export.auth_username} {export.auth_password}"
                if export.auth_username
                else None
            ),
        }

    def ensure_export(self, context: object, volume: Any) -> dict[str, str | None]:
        """Make or repair the volume's target, as after a restart."""
        return self.create_export(context, volume)

    def remove_export(self, context: object, volume: Any) -> None:
        """Raises Refused while the volume has connections. Absent is fine."""
        request = export_pb2.RemoveExportRequest(volume_id=_volume_id(volume))
        self._call(self._stub.RemoveExport, request)

    def initialize_connection(
        self,
        volume: Any,
        connector: Mapping[str, Any],
        attachment_id: str = "",
        access_mode: str = "rw",
        mutual_chap: bool = False,
    ) -> dict[str, Any]:
        """Give the connector's initiator access; returns what os-brick needs.

        With ``mutual_chap`` also what the target proves itself with.

        ``{"driver_volume_type": "iscsi", "data": {...}}``; ``data`` holds the
        CHAP secret: do not log it.
        """
        if access_mode not in MODES:
            raise InvalidInput("access_mode: must be rw or ro")
        request = export_pb2.InitializeConnectionRequest(
            volume_id=_volume_id(volume),
            attachment_id=attachment_id or _attachment_id(volume, connector),
            connector=_connector(connector),
            access_mode=MODES[access_mode],
            mutual_chap=mutual_chap,
        )
        answer = self._call(self._stub.InitializeConnection, request)
        return {
            "driver_volume_type": answer.properties.driver_volume_type,
            "data": _properties(answer.properties),
        }

    def terminate_connection(
        self,
        volume: Any,
        connector: Mapping[str, Any] | None,
        attachment_id: str = "",
        force: bool = False,
    ) -> bool:
        """Take the access away; returns whether others still use the export.

        With an attachment id that attachment goes; with a connector alone all
        attachments of its initiator; with neither, all of the volume.
        """
        request = export_pb2.TerminateConnectionRequest(volume_id=_volume_id(volume), force=force)
        if attachment_id:
            request.attachment_id = attachment_id
        elif connector:
            request.connector.CopyFrom(_connector(connector))
        else:
            request.force = True
        return bool(self._call(self._stub.TerminateConnection, request).shared)


def _volume_id(volume: Any) -> str:
    found = volume.get("id") if isinstance(volume, Mapping) else getattr(volume, "id", None)
    if not isinstance(found, str):
        raise InvalidInput("volume: has no id")
    return found


def _attachment_id(volume: Any, connector: Mapping[str, Any]) -> str:
    initiator = str(connector.get("initiator", "")).lower()
    return str(uuid.uuid5(ATTACHMENT_NAMESPACE, f"{_volume_id(volume)} {initiator}"))


def _connector(connector: Mapping[str, Any]) -> export_pb2.Connector:
    """The keys that the daemon knows; the field's connectors carry many more."""
    if not connector.get("initiator"):
        raise InvalidConnector("connector.initiator: is missing")
    return export_pb2.Connector(
        initiator=str(connector["initiator"]),
        host=str(connector.get("host") or ""),
        ip=str(connector.get("ip") or ""),
        multipath=bool(connector.get("multipath")),
        enforce_multipath=bool(connector.get("enforce_multipath")),
        platform=str(connector.get("platform") or ""),
        os_type=str(connector.get("os_type") or ""),
        mountpoint=str(connector.get("mountpoint") or ""),
    )


def _properties(message: export_pb2.ConnectionProperties) -> dict[str, Any]:
    found: dict[str, Any] = {
        "target_discovered": message.target_discovered,
        "target_portal": message.target_portal,
        "target_iqn": message.target_iqn,
        "target_lun": message.target_lun,
        "target_portals": list(message.target_portals),
        "target_iqns": list(message.target_iqns),
        "target_luns": list(message.target_luns),
        "volume_id": message.volume_id,
        "attachment_id": message.attachment_id,
        "auth_method": message.auth_method,
        "auth_username": message.auth_username,
        "auth_password": message.auth_password,
        "access_mode": message.access_mode,
        "encrypted": message.encrypted,
        "qos_specs": None,
        "discard": message.discard,
        "enforce_multipath": message.enforce_multipath,
        "cacheable": message.cacheable,
    }
    for name in OPTIONAL_PROPERTIES:
        if getattr(message, name):
            found[name] = getattr(message, name)
    return found
