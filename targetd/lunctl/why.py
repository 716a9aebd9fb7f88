"""``lunctl why``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from targetd.api.v1 import export_pb2, volume_pb2
from targetd.lunctl import findings, human
from targetd.lunctl.cli import Command
from targetd.lunctl.connection import who
from targetd.lunctl.current import connect
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import emit, say
from targetd.lunctl.parameters import volume_argument
from targetd.lunctl.present import Present, present
from targetd.lunctl.settings import settings
from targetd.lunctl.style import HEADING, styled
from targetd.lunctl.waiting import describe

if TYPE_CHECKING:
    from targetd.lunctl.client import Client

GRANTED = export_pb2.CONNECTION_STATE_GRANTED


@dataclass(frozen=True)
class Reason:
    """One thing about a volume. ``kind`` is state, work, holder or hinders."""

    kind: str
    what: str
    # A command, where one helps.
    next: str = ""


@click.command(cls=Command)
@volume_argument
def command(volume_id: str) -> None:
    """Explain what a volume waits for and who holds it.

    Its state, the work on it, who is attached and logged in, and what stands against
    deleting or growing it.
    """
    client = connect()
    everything = present(client)
    state = everything.of_volume(volume_id)
    copies = [
        one
        for one in everything.volumes
        if one.state == volume_pb2.VOLUME_STATE_COPYING and one.source_volume_id == volume_id
    ]
    if not state.volumes and not state.operations:
        raise CommandError(
            f"volume {volume_id} does not exist, and no work on it goes on",
            Exit.NOT_FOUND,
            reason="NOT_FOUND",
            hints=("lunctl volume list",),
        )
    _look_now(client, state)
    reasons = list(_reasons(client, volume_id, state, copies))
    if settings().json:
        emit(_document(volume_id, state, reasons))
        return
    say(styled(f"volume {volume_id}", HEADING))
    for reason in reasons:
        say(f"- {human.clean(reason.what)}")
        if reason.next:
            say(f"      {reason.next}")


def _document(volume_id: str, state: Present, reasons: list[Reason]) -> dict[str, Any]:
    return {
        "volume_id": volume_id,
        "reasons": [asdict(reason) for reason in reasons],
        **state.documents(),
    }


def _look_now(client: Client, state: Present) -> None:
    """Connections as the kernel has them at this moment."""
    for at, one in enumerate(state.connections):
        request = export_pb2.GetConnectionRequest(
            volume_id=one.volume_id, attachment_id=one.attachment_id
        )
        try:
            state.connections[at] = client.call(client.exports.GetConnection, request)
        except CommandError as error:
            # It may have gone meanwhile, or hang in the kernel: then as last seen.
            if error.status not in (Exit.NOT_FOUND, Exit.LATE):
                raise


def _reasons(
    client: Client, volume_id: str, state: Present, copies: list[volume_pb2.Volume]
) -> Iterator[Reason]:
    for volume in state.volumes:
        yield _of_state(volume, state)
    if not state.volumes:
        yield Reason("state", "it was deleted; what is left of its data is being wiped")
    for operation in state.operations:
        yield Reason(
            "work", describe(operation), f"lunctl operation watch {operation.operation_id}"
        )
    for one in state.connections:
        yield _of_connection(one)
    for session in findings.strangers(client, state):
        yield Reason(
            "holder",
            f"{session.initiator} is logged in without attachment",
            f"lunctl reconcile {volume_id}",
        )
    yield from _hinders(volume_id, state, copies)


def _of_state(volume: volume_pb2.Volume, state: Present) -> Reason:
    volume_id = volume.volume_id
    if volume.state == volume_pb2.VOLUME_STATE_COPYING:
        source = volume.source_snapshot_id or volume.source_volume_id
        return Reason("state", f"it is being filled from {source}, and cannot be exported before")
    if volume.state == volume_pb2.VOLUME_STATE_DETACHING:
        return Reason(
            "state",
            "a revocation has begun, and the kernel has not let go yet: its device may not answer",
            f"dmsetup info {volume.device_path}",
        )
    if volume.state == volume_pb2.VOLUME_STATE_DEGRADED:
        return Reason(
            "state",
            f"degraded: its device {volume.device_path} is missing, cannot be activated, or does "
            f"not answer (journalctl -u targetd | grep {volume_id})",
            f"lunctl reconcile {volume_id}",
        )
    if not state.exports:
        return Reason(
            "state",
            "available, and not exported: nobody can reach it",
            f"lunctl export create {volume_id}",
        )
    if not state.connections:
        return Reason(
            "state",
            "exported, and nobody has access",
            f"lunctl connection create {volume_id} --initiator IQN",
        )
    return Reason("state", "available and exported")


def _of_connection(one: export_pb2.Connection) -> Reason:
    mode = "read-only" if one.access_mode == export_pb2.ACCESS_MODE_RO else "read-write"
    text = f"{who(one)} by attachment {one.attachment_id} ({mode}): {human.connection_state(one)}"
    if one.logged_in:
        text += f" from {' '.join(one.peer_addresses)}"
        if one.HasField("logged_in_since"):
            text += f" since {human.moment(one.logged_in_since)}"
    if one.state == GRANTED and not one.authorized:
        return Reason(
            "holder",
            f"{text}: the kernel lacks what the records say",
            f"lunctl reconcile {one.volume_id}",
        )
    return Reason("holder", text)


def _hinders(volume_id: str, state: Present, copies: list[volume_pb2.Volume]) -> Iterator[Reason]:
    """What has to go before a delete, in the order in which it can go."""
    for one in state.connections:
        yield Reason(
            "hinders",
            f"deleting it: attachment {one.attachment_id} has access",
            f"lunctl connection remove {volume_id} {one.attachment_id}",
        )
    if state.exports:
        yield Reason("hinders", "deleting it: it is exported", f"lunctl export remove {volume_id}")
    thick = any(one.provisioning == volume_pb2.PROVISIONING_THICK for one in state.volumes)
    for snapshot in state.snapshots:
        yield Reason(
            "hinders",
            f"deleting{' and growing' if thick else ''} it: snapshot {snapshot.snapshot_id}",
            f"lunctl snapshot delete {snapshot.snapshot_id}",
        )
    for copy in copies:
        yield Reason(
            "hinders",
            f"deleting it: volume {copy.volume_id} is being filled from it",
            f"lunctl operation watch {copy.operation_id}",
        )
