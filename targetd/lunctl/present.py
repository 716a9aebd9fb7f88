"""The state of the whole host at one moment: what Watch tells first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.lunctl.documents import document

if TYPE_CHECKING:
    from targetd.lunctl.client import Client


@dataclass
class Present:
    volumes: list[volume_pb2.Volume] = field(default_factory=list)
    snapshots: list[volume_pb2.Snapshot] = field(default_factory=list)
    exports: list[export_pb2.Export] = field(default_factory=list)
    connections: list[export_pb2.Connection] = field(default_factory=list)
    # Those that have not ended.
    operations: list[host_pb2.Operation] = field(default_factory=list)

    def documents(self) -> dict[str, list[dict[str, Any]]]:
        return {key: [document(one) for one in getattr(self, key)] for key in vars(self)}

    def of_volume(self, volume_id: str) -> Present:
        """What has to do with one volume."""
        kept = {
            key: [one for one in getattr(self, key) if one.volume_id == volume_id]
            for key in vars(self)
        }
        return Present(**kept)


def present(client: Client, seconds: float | None = None) -> Present:
    """Raises CommandError, also when as many as may watch already do."""
    found: dict[str, dict[tuple[str, ...], Any]] = {key: {} for key in vars(Present())}
    limit = client.settings.seconds() if seconds is None else seconds
    for response in client.stream(client.hosts.Watch, host_pb2.WatchRequest(), limit):
        kind = response.WhichOneof("change")
        if kind == "synced":
            break
        if kind == "removed" or kind is None:
            continue
        one = getattr(response, kind)
        # One that changes meanwhile is told twice.
        key = tuple(
            getattr(one, name, "")
            for name in ("volume_id", "snapshot_id", "attachment_id", "operation_id")
        )
        found[f"{kind}s"][key] = one
    return Present(**{key: list(ones.values()) for key, ones in found.items()})
