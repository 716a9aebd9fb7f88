"""The index in memory: volumes as LVM has them, exports and connections as recorded.

Written only in the volume's turn (see workers), so what concerns one volume is
consistent there; readers elsewhere see each entry whole.
"""

from __future__ import annotations

from collections import defaultdict

from targetd.errors import NotFound
from targetd.model import Connection, ConnectionState, Export, Volume


class Catalog:
    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}
        self.exports: dict[str, Export] = {}
        self._connections: defaultdict[str, dict[str, Connection]] = defaultdict(dict)
        # Volumes whose target could not be brought into its right state.
        self.degraded: dict[str, str] = {}

    def volume(self, volume_id: str) -> Volume:
        """Raises NotFound."""
        try:
            return self.volumes[volume_id]
        except KeyError:
            raise NotFound(f"volume {volume_id} does not exist", volume_id=volume_id) from None

    def export(self, volume_id: str) -> Export:
        """Raises NotFound."""
        try:
            return self.exports[volume_id]
        except KeyError:
            self.volume(volume_id)
            raise NotFound(
                f"volume {volume_id} is not exported; call CreateExport first",
                reason="NOT_EXPORTED",
                volume_id=volume_id,
            ) from None

    def connection(self, volume_id: str, attachment_id: str) -> Connection:
        """Raises NotFound."""
        try:
            return self._connections.get(volume_id, {})[attachment_id]
        except KeyError:
            raise NotFound(
                f"volume {volume_id} has no attachment {attachment_id}",
                volume_id=volume_id,
                attachment_id=attachment_id,
            ) from None

    def connections(self, volume_id: str) -> list[Connection]:
        return list(self._connections.get(volume_id, {}).values())

    def all_connections(self) -> list[Connection]:
        return [one for group in list(self._connections.values()) for one in list(group.values())]

    def put_connection(self, connection: Connection) -> None:
        self._connections[connection.volume_id][connection.attachment_id] = connection

    def drop_connection(self, connection: Connection) -> None:
        self._connections.get(connection.volume_id, {}).pop(connection.attachment_id, None)

    def is_detaching(self, volume_id: str) -> bool:
        return any(
            connection.state is ConnectionState.REVOKING
            for connection in self.connections(volume_id)
        )
