"""After a power cut: is everything there that a client was told, and nothing else?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from lab.agreement import Client, Seen, disagreements, look
from lab.ledger import Attachment, Findings, Ledger, VolumeState
from lab.load import initialize
from lab.storage import StorageHost
from targetd.api.v1 import export_pb2

WIPED_SECONDS = 60.0


def verify(storage: StorageHost, client: Client, ledger: Ledger) -> Findings:
    """Of a healthy daemon with no other client. The ledger takes over what is found."""
    seen = look(storage, client)
    # First what is there, then the calls, which put right what they find.
    orphans = disagreements(seen)
    unusable: list[str] = []
    states = {volume_id: _state(seen, volume_id) for volume_id in seen.volumes}
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
    findings = ledger.compare(states)
    findings.losses += unusable
    findings.orphans += [*orphans, *_not_wiped(storage, client, seen)]
    return findings


def _state(seen: Seen, volume_id: str) -> VolumeState:
    volume = seen.volumes[volume_id]
    return VolumeState(
        pool=volume.pool,
        size_bytes=volume.size_bytes,
        multi_attach=volume.multi_attach,
        content=seen.node["contents"].get(f"volume-{volume_id}", "missing"),
        exported=volume_id in seen.exports,
    )


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


def _not_wiped(storage: StorageHost, client: Client, seen: Seen) -> list[str]:
    """The daemon takes up the wipes again by itself; each must come to its end."""
    end = time.monotonic() + WIPED_SECONDS
    while seen.retired and time.monotonic() < end:
        time.sleep(0.2)
        seen = look(storage, client)
    return [f"{name} is still not wiped" for name in sorted(seen.retired)]
