"""``lunctl export``."""

from __future__ import annotations

import click

from targetd.api.v1 import export_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Group
from targetd.lunctl.current import connect
from targetd.lunctl.documents import MASKED, document
from targetd.lunctl.output import Column, details, done, emit, listing
from targetd.lunctl.parameters import complete_exports, volume_argument
from targetd.lunctl.settings import settings

Export = export_pb2.Export
COLUMNS = (
    Column[Export]("VOLUME", lambda export: export.volume_id),
    Column[Export]("ATTACHED", lambda export: str(len(export.attachment_ids)), right=True),
    Column[Export]("SESSIONS", lambda export: str(export.session_count), right=True),
    Column[Export]("TARGET", lambda export: export.target_iqn, 2),
    Column[Export]("PORTALS", lambda export: " ".join(export.portals), 3),
    Column[Export]("CREATED", lambda export: human.moment(export.create_time), 1),
)


@click.group(cls=Group)
def command() -> None:
    """Make, show and remove the iSCSI targets of volumes."""


@command.command("list")
def list_() -> None:
    """Show all exports."""
    client = connect()
    request = export_pb2.ListExportsRequest()
    listing("exports", client.pages(client.exports.ListExports, request, "exports"), COLUMNS)


@command.command()
@click.argument("volume_id", metavar="VOLUME", shell_complete=complete_exports)
def show(volume_id: str) -> None:
    """Show the export of a volume, with the sessions that it has now."""
    client = connect()
    request = export_pb2.GetExportRequest(volume_id=volume_id)
    _answer(client.call(client.exports.GetExport, request), False)


@command.command()
@volume_argument
@click.option(
    "--show-secret",
    is_flag=True,
    help='Where the daemon has one secret for each export (chap = "export"): print it.',
)
def create(volume_id: str, show_secret: bool) -> None:
    """Make the iSCSI target of a volume. Nobody can log in before a connection is made."""
    client = connect()
    request = export_pb2.CreateExportRequest(volume_id=volume_id)
    _answer(client.call(client.exports.CreateExport, request), show_secret)


@command.command()
@click.argument("volume_id", metavar="VOLUME", shell_complete=complete_exports)
def remove(volume_id: str) -> None:
    """Remove the target of a volume; the volume stays. Refused while it has connections."""
    client = connect()
    client.call(client.exports.RemoveExport, export_pb2.RemoveExportRequest(volume_id=volume_id))
    done({"volume_id": volume_id}, f"volume {volume_id} is not exported")


def _answer(export: Export, show_secret: bool) -> None:
    if settings().json:
        emit(document(export, show_secret))
        return
    secret = export.auth_password if show_secret or not export.auth_password else MASKED
    details(
        [
            ("Volume", export.volume_id),
            ("Target", export.target_iqn),
            ("LUN", str(export.target_lun)),
            ("Portals", " ".join(export.portals)),
            ("Attachments", " ".join(export.attachment_ids)),
            ("Shared", human.yes(export.shared)),
            ("Sessions", str(export.session_count)),
            ("Created", human.moment(export.create_time)),
            ("User", export.auth_username),
            ("Password", secret),
        ]
    )
