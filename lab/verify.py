"""After a power cut: is everything there that a client was told, and nothing else?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from lab.agreement import SNAPSHOT_PREFIX, VOLUME_PREFIX, Client, Seen, disagreements, look
from lab.ledger import (
    Attachment,
    Findings,
    Ledger,
    ReleasedState,
    SnapshotState,
    State,
    VolumeState,
)
from lab.load import initialize
from lab.storage import GROUP, RELEASED_PREFIX, StorageHost
from targetd.api.v1 import export_pb2, volume_pb2

LONG_WORK_SECONDS = 60.0


def verify(storage: StorageHost, client: Client, ledger: Ledger) -> Findings:
    """Of a healthy daemon with no other client. The ledger takes over what is found."""
    _activate_snapshots(storage, client)
    seen = _look_at_rest(storage, client)
    # First what is there, then the calls, which put right what they find.
    orphans = disagreements(seen)
    unusable: list[str] = []
    states = _volumes(seen)
    for (volume_id, _), connection in seen.connections.items():
        attachment = _attachment(connection)
        try:
            given = initialize(client, volume_id, attachment)
        except grpc.RpcError as error:
            unusable.append(f"{volume_id} {attachment.attachment_id}: {error}")
            continue
        orphans += _secrets_differ(seen, connection, given)
        if volume_id in states:
            answered = Attachment(
                attachment.attachment_id, attachment.initiator, attachment.access_mode, given
            )
            states[volume_id] = states[volume_id].with_attachment(answered)
    findings = ledger.compare({**states, **_snapshots(seen), **_released(seen)})
    findings.losses += unusable
    findings.orphans += [*orphans, *(f"{name} is still not wiped" for name in sorted(seen.retired))]
    return findings


def _activate_snapshots(storage: StorageHost, client: Client) -> None:
    """So that they can be read: the daemon keeps those of thin volumes inactive."""
    names = [f"{GROUP}/{SNAPSHOT_PREFIX}{one.snapshot_id}" for one in client.list_snapshots()]
    if names:
        argv = ["lvm", "lvchange", "--activate", "y", "--ignoreactivationskip", *names]
        # One that cannot be has no content then, which is a finding.
        storage.node.run(argv, check=False)


def _look_at_rest(storage: StorageHost, client: Client) -> Seen:
    """The daemon takes up wipes and copies again by itself; each must come to its end."""
    end = time.monotonic() + LONG_WORK_SECONDS
    while True:
        seen = look(storage, client)
        if not (seen.retired or seen.filling) or time.monotonic() > end:
            return seen
        time.sleep(0.2)


def _volumes(seen: Seen) -> dict[str, VolumeState]:
    return {
        volume_id: VolumeState(
            pool=volume.pool,
            size_bytes=volume.size_bytes,
            multi_attach=volume.multi_attach,
            content=_content(seen, f"{VOLUME_PREFIX}{volume_id}"),
            exported=volume_id in seen.exports,
            source=_source(volume),
            filling=volume_id in seen.filling,
        )
        for volume_id, volume in seen.volumes.items()
    }


def _source(volume: volume_pb2.Volume) -> str:
    if volume.source_snapshot_id:
        return f"snapshot {volume.source_snapshot_id}"
    return f"volume {volume.source_volume_id}" if volume.source_volume_id else ""


def _content(seen: Seen, lv_name: str) -> str:
    return str(seen.node["contents"].get(lv_name, "missing"))


def _snapshots(seen: Seen) -> dict[str, State]:
    return {
        snapshot_id: SnapshotState(
            volume_id=snapshot.volume_id,
            pool=snapshot.pool,
            size_bytes=snapshot.size_bytes,
            content=_content(seen, f"{SNAPSHOT_PREFIX}{snapshot_id}"),
        )
        for snapshot_id, snapshot in seen.snapshots.items()
    }


def _released(seen: Seen) -> dict[str, State]:
    return {
        name.removeprefix(RELEASED_PREFIX): ReleasedState(content=_content(seen, name), **held)
        for name, held in seen.node["released"].items()
    }


def _attachment(connection: export_pb2.Connection) -> Attachment:
    return Attachment(connection.attachment_id, connection.initiator, connection.access_mode)


def _secrets_differ(
    seen: Seen, connection: export_pb2.Connection, given: export_pb2.ConnectionProperties
) -> Iterator[str]:
    acl = seen.acl(connection)
    if (acl.get("username"), acl.get("password")) != (given.auth_username, given.auth_password):
        yield (
            f"connection {connection.attachment_id} of {connection.volume_id}: the kernel has "
            "other credentials than the answer"
        )
