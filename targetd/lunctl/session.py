"""``lunctl session``."""

from __future__ import annotations

import click

from targetd.api.v1 import export_pb2
from targetd.lunctl.cli import Group
from targetd.lunctl.current import connect
from targetd.lunctl.output import Column, listing
from targetd.lunctl.parameters import volume_option

Session = export_pb2.Session
COLUMNS = (
    Column[Session]("VOLUME", lambda session: session.volume_id),
    # Nobody may be logged in without an attachment: that is an alarm.
    Column[Session](
        "ATTACHMENTS", lambda session: " ".join(session.attachment_ids) or "no attachment"
    ),
    Column[Session]("FROM", lambda session: " ".join(session.peer_addresses), 1),
    Column[Session]("STATE", lambda session: session.state, 3),
    Column[Session]("INITIATOR", lambda session: session.initiator, 2),
)


@click.group(cls=Group)
def command() -> None:
    """Show who is logged in."""


@command.command("list")
@volume_option
def list_(volume_id: str) -> None:
    """Show all sessions that the kernel has now."""
    client = connect()
    request = export_pb2.ListSessionsRequest(volume_id=volume_id)
    listing("sessions", client.pages(client.exports.ListSessions, request, "sessions"), COLUMNS)
