"""Whether the daemon's answers, its records, the kernel and LVM hold the same things."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from lab.node import GUEST
from lab.service import GROUP, STATE_FOLDER, TargetdService
from targetd.api.v1 import export_pb2, export_pb2_grpc, volume_pb2, volume_pb2_grpc

VOLUME_PREFIX, SNAPSHOT_PREFIX, RETIRED_PREFIX = "volume-", "snap-", "deleted-"
SOURCE_PREFIX = "source-"
RPC_SECONDS = 60.0

Item = TypeVar("Item")


class Client:
    """The daemon's services over one channel, and its lists to their ends."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.volumes = volume_pb2_grpc.VolumeServiceStub(channel)
        self.exports = export_pb2_grpc.ExportServiceStub(channel)

    def list_volumes(self) -> list[volume_pb2.Volume]:
        request = volume_pb2.ListVolumesRequest()
        return _all(self.volumes.ListVolumes, request, lambda page: page.volumes)

    def list_snapshots(self) -> list[volume_pb2.Snapshot]:
        request = volume_pb2.ListSnapshotsRequest()
        return _all(self.volumes.ListSnapshots, request, lambda page: page.snapshots)

    def list_exports(self) -> list[export_pb2.Export]:
        request = export_pb2.ListExportsRequest()
        return _all(self.exports.ListExports, request, lambda page: page.exports)

    def list_connections(self) -> list[export_pb2.Connection]:
        request = export_pb2.ListConnectionsRequest()
        return _all(self.exports.ListConnections, request, lambda page: page.connections)


class _Page(Protocol):
    next_page_token: str


def _all(call: Any, request: Any, items: Callable[[Any], Collection[Item]]) -> list[Item]:
    found: list[Item] = []
    while True:
        page: _Page = call(request, timeout=RPC_SECONDS)
        found += items(page)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@dataclass(frozen=True)
class Seen:
    """One look at a storage host. ``node`` is what guest/look.py told."""

    volumes: Mapping[str, volume_pb2.Volume]
    snapshots: Mapping[str, volume_pb2.Snapshot]
    exports: Mapping[str, export_pb2.Export]
    connections: Mapping[tuple[str, str], export_pb2.Connection]
    node: Mapping[str, Any]

    @property
    def retired(self) -> set[str]:
        """Deleted volumes whose data is still being wiped."""
        return {name for name in self.node["logical_volumes"] if name.startswith(RETIRED_PREFIX)}

    @property
    def filling(self) -> set[str]:
        """Volumes that are being filled from their sources."""
        copying = volume_pb2.VOLUME_STATE_COPYING
        return {volume_id for volume_id, one in self.volumes.items() if one.state == copying}

    def acl(self, connection: export_pb2.Connection) -> Mapping[str, Any]:
        """The kernel's ACL for a connection, empty when there is none."""
        export = self.exports.get(connection.volume_id)
        target = self.node["targets"].get(export.target_iqn) if export else None
        found: Mapping[str, Any] = target["acls"].get(connection.initiator, {}) if target else {}
        return found


def look(storage: TargetdService, client: Client) -> Seen:
    """Only of a daemon at rest: the looks are one after the other."""
    connections = client.list_connections()
    return Seen(
        volumes={volume.volume_id: volume for volume in client.list_volumes()},
        snapshots={snapshot.snapshot_id: snapshot for snapshot in client.list_snapshots()},
        exports={export.volume_id: export for export in client.list_exports()},
        connections={(one.volume_id, one.attachment_id): one for one in connections},
        node=json.loads(
            storage.node.run(
                ["python3", f"{GUEST}/look.py", GROUP, f"{STATE_FOLDER}/state.sqlite"]
            ).stdout
        ),
    )


def targetcli_differs(storage: TargetdService, client: Client) -> set[str]:
    """Targets and initiators that only one of the two knows: the daemon, and targetcli,
    which is an independent reader of what the kernel serves."""
    granted = {connection.initiator for connection in client.list_connections()}
    exported = {export.target_iqn for export in client.list_exports()}
    theirs = set(re.findall(r"o- (iqn\.\S+) ", storage.targetcli()))
    return (granted | exported) ^ theirs


def disagreements(seen: Seen) -> list[str]:
    """One line for each thing that is there without the others it belongs to."""
    return [
        *_of_volumes(seen),
        *_of_exports(seen),
        *_of_backstores(seen),
        *_of_connections(seen),
    ]


def _of_volumes(seen: Seen) -> Iterator[str]:
    held: Mapping[str, int] = seen.node["logical_volumes"]
    ours = {name for name in held if name not in seen.retired}
    told = {f"{VOLUME_PREFIX}{volume_id}" for volume_id in seen.volumes}
    told |= {f"{SNAPSHOT_PREFIX}{snapshot_id}" for snapshot_id in seen.snapshots}
    # Only these are filled from a snapshot of their own.
    told |= {f"{SOURCE_PREFIX}{one}" for one in seen.filling if seen.volumes[one].source_volume_id}
    yield from _differ("logical volumes", ours, "volumes and snapshots", told)
    yield from (f"creation of {one} has no end" for one in seen.node["records"]["creating"])
    for volume_id, volume in seen.volumes.items():
        size = held.get(f"{VOLUME_PREFIX}{volume_id}", volume.size_bytes)
        if size != volume.size_bytes:
            yield f"volume {volume_id} has {size} bytes in LVM, {volume.size_bytes} in its answer"
        if volume.state != volume_pb2.VOLUME_STATE_AVAILABLE:
            yield f"volume {volume_id} is {volume_pb2.VolumeState.Name(volume.state)}"


def _of_exports(seen: Seen) -> Iterator[str]:
    targets = seen.node["targets"]
    named = {export.target_iqn for export in seen.exports.values()}
    yield from _differ("targets", set(targets), "exports", named)
    recorded = set(seen.node["records"]["exports"])
    yield from _differ("records of exports", recorded, "exports", set(seen.exports))
    yield from (f"export {one} has no volume" for one in set(seen.exports) - set(seen.volumes))
    for volume_id, export in seen.exports.items():
        target = targets.get(export.target_iqn)
        if target is None:
            continue
        right = {
            "enabled": True,
            "authentication": True,
            "open_to_all": False,
            "portals": sorted(export.portals),
            "backstore": f"{VOLUME_PREFIX}{volume_id}",
        }
        yield from _wrong(f"target of {volume_id}", target, right)


def _of_backstores(seen: Seen) -> Iterator[str]:
    found = {}
    for adapter in seen.node["adapters"]:
        if len(adapter) != 1:
            yield f"an adapter has {len(adapter)} backstores"
        found.update({backstore["name"]: backstore for backstore in adapter})
    wanted = {f"{VOLUME_PREFIX}{volume_id}" for volume_id in seen.exports}
    yield from _differ("backstores", set(found), "exports", wanted)
    for name in wanted & set(found):
        volume_id = name.removeprefix(VOLUME_PREFIX)
        right = {"enabled": True, "device": f"/dev/{GROUP}/{name}", "serial": volume_id}
        yield from _wrong(f"backstore of {volume_id}", found[name], right)


def _of_connections(seen: Seen) -> Iterator[str]:
    # What has been revoked goes from the file with the next change.
    recorded = {
        (volume_id, attachment_id, state)
        for volume_id, attachment_id, state in seen.node["records"]["connections"]
        if state != "revoking" or (volume_id, attachment_id) in seen.connections
    }
    granted = {(*key, "granted") for key in seen.connections}
    yield from _differ("records of connections", recorded, "granted connections", granted)
    initiators: dict[str, set[str]] = {volume_id: set() for volume_id in seen.exports}
    for (volume_id, attachment_id), connection in seen.connections.items():
        what = f"connection {attachment_id} of {volume_id}"
        if connection.state != export_pb2.CONNECTION_STATE_GRANTED:
            yield f"{what} is {export_pb2.ConnectionState.Name(connection.state)}"
        if not connection.authorized:
            yield f"{what} is not authorized"
        initiators.setdefault(volume_id, set()).add(connection.initiator)
        read_only = connection.access_mode == export_pb2.ACCESS_MODE_RO
        yield from _wrong(what, seen.acl(connection), {"read_only": read_only, "mapped": "lun_0"})
    for volume_id, export in seen.exports.items():
        acls = seen.node["targets"].get(export.target_iqn, {"acls": {}})["acls"]
        yield from _differ(f"ACLs of {volume_id}", set(acls), "connected", initiators[volume_id])
    strays = set(initiators) - set(seen.exports)
    yield from (f"connections of {volume_id} have no export" for volume_id in strays)


def _differ(left: str, lefts: set[Any], right: str, rights: set[Any]) -> Iterator[str]:
    if lefts - rights:
        yield f"{left} without {right}: {sorted(lefts - rights)}"
    if rights - lefts:
        yield f"{right} without {left}: {sorted(rights - lefts)}"


def _wrong(what: str, found: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    for name, value in right.items():
        if found.get(name) != value:
            yield f"{what}: {name} is {found.get(name)!r}, not {value!r}"
