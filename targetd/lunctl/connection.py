"""``lunctl connection``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from targetd.api.v1 import export_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Group
from targetd.lunctl.current import connect
from targetd.lunctl.documents import MASKED, document, pretty
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import Column, answer, details, done, emit, listing, note
from targetd.lunctl.parameters import complete_connections, volume_argument, volume_option
from targetd.lunctl.settings import settings

Connection = export_pb2.Connection
Properties = export_pb2.ConnectionProperties


def who(connection: Connection) -> str:
    return connection.host or connection.initiator


COLUMNS = (
    Column[Connection]("VOLUME", lambda one: one.volume_id),
    Column[Connection]("ATTACHMENT", lambda one: one.attachment_id),
    Column[Connection]("HOST", who, 1),
    Column[Connection]("STATE", human.connection_state),
    Column[Connection]("MODE", lambda one: human.access_mode(one.access_mode), 3),
    Column[Connection]("SINCE", lambda one: human.moment(one.logged_in_since), 4),
    Column[Connection]("INITIATOR", lambda one: one.initiator, 5),
)


@click.group(cls=Group)
def command() -> None:
    """Give initiators access to volumes, show it, take it away."""


@command.command("list")
@volume_option
def list_(volume_id: str) -> None:
    """Show all connections, logged in or not as last looked at some seconds ago."""
    client = connect()
    request = export_pb2.ListConnectionsRequest(volume_id=volume_id)
    found = client.pages(client.exports.ListConnections, request, "connections")
    listing("connections", found, COLUMNS)


@command.command()
@volume_argument
@click.argument("attachment_id", metavar="ATTACHMENT", shell_complete=complete_connections)
def show(volume_id: str, attachment_id: str) -> None:
    """Show one connection as the kernel has it now."""
    client = connect()
    request = export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id=attachment_id)
    connection = client.call(client.exports.GetConnection, request)
    answer(connection, lambda: _details(connection))


@command.command()
@volume_argument
@click.option("--initiator", required=True, metavar="IQN", help="Its name, as in its iSCSI stack.")
@click.option("--host", metavar="NAME", default="", help="What people call it.")
@click.option(
    "--attachment",
    "attachment_id",
    metavar="ID",
    help="Default: made from the volume and the initiator, so that repeating it is a repetition.",
)
@click.option("--read-only", is_flag=True, help="The target refuses its writes.")
@click.option("--mutual-chap", is_flag=True, help="The initiator also checks the target's secret.")
@click.option("--multipath", is_flag=True, help="The initiator uses several portals at once.")
@click.option(
    "--show-secret", is_flag=True, help="Print the CHAP secret, on the terminal or in JSON."
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help="Write all properties, with the secret, to this new file that only you can read.",
)
def create(
    volume_id: str,
    initiator: str,
    host: str,
    attachment_id: str | None,
    read_only: bool,
    mutual_chap: bool,
    multipath: bool,
    show_secret: bool,
    secret_file: Path | None,
) -> None:
    """Give an initiator access to VOLUME, which must be exported.

    Prints what the initiator needs to log in, without the CHAP secret unless it is asked
    for. The same command again returns the same secret.
    """
    client = connect()
    request = export_pb2.InitializeConnectionRequest(
        volume_id=volume_id,
        attachment_id=attachment_id or _attachment_id(volume_id, initiator),
        connector=export_pb2.Connector(initiator=initiator, host=host, multipath=multipath),
        access_mode=export_pb2.ACCESS_MODE_RO if read_only else export_pb2.ACCESS_MODE_RW,
        mutual_chap=mutual_chap,
    )
    with _new_private_file(secret_file) as file:
        properties = client.call(client.exports.InitializeConnection, request).properties
        if file is not None:
            file.write(pretty(document(properties, show_secrets=True)) + "\n")
    _print_properties(properties, show_secret, told=secret_file is not None)


def _attachment_id(volume_id: str, initiator: str) -> str:
    """As the driver makes it for layers without attachments."""
    from targetd_driver.driver import ATTACHMENT_NAMESPACE

    return str(uuid.uuid5(ATTACHMENT_NAMESPACE, f"{volume_id} {initiator.lower()}"))


@contextmanager
def _new_private_file(path: Path | None) -> Iterator[IO[str] | None]:
    """Made before the call, so that nothing is granted whose secret has no place to go."""
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be made: {error.strerror}",
            Exit.USAGE,
            hints=("--secret-file must name a file that is not there yet.",),
        ) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        path.unlink()
        raise


def _print_properties(properties: Properties, show_secret: bool, told: bool) -> None:
    if settings().json:
        emit(document(properties, show_secret))
        return
    secrets = [properties.auth_password, properties.mutual_auth_password]
    shown = [one if show_secret or not one else MASKED for one in secrets]
    details(
        [
            ("Volume", properties.volume_id),
            ("Attachment", properties.attachment_id),
            ("Target", properties.target_iqn),
            ("LUN", str(properties.target_lun)),
            ("Portals", " ".join(properties.target_portals)),
            ("Mode", properties.access_mode),
            ("Authentication", properties.auth_method),
            ("User", properties.auth_username),
            ("Password", shown[0]),
            ("Target's user", properties.mutual_auth_username),
            ("Target's password", shown[1]),
        ]
    )
    if not (show_secret or told):
        note("The secret: the same command again with --show-secret or --secret-file FILE.")


@command.command()
@volume_argument
@click.argument(
    "attachment_id", metavar="[ATTACHMENT]", required=False, shell_complete=complete_connections
)
@click.option("--initiator", metavar="IQN", help="All attachments of this initiator.")
@click.option("--all", "everybody", is_flag=True, help="All attachments of the volume.")
@click.option("--close-session", is_flag=True, help="Also when the initiator is logged in.")
def remove(
    volume_id: str,
    attachment_id: str | None,
    initiator: str | None,
    everybody: bool,
    close_session: bool,
) -> None:
    """Take access to VOLUME away, and see that it is gone.

    Whose: one ATTACHMENT, or all of one initiator, or all. An initiator that is logged
    in is left alone unless --close-session says otherwise.
    """
    if [bool(attachment_id), bool(initiator), everybody].count(True) != 1:
        raise click.UsageError("say whose access goes: ATTACHMENT, --initiator IQN, or --all")
    client = connect()
    request = export_pb2.TerminateConnectionRequest(
        volume_id=volume_id, force=everybody, refuse_if_logged_in=not close_session
    )
    if attachment_id:
        request.attachment_id = attachment_id
    elif initiator:
        request.connector.initiator = initiator
    gone = client.call(client.exports.TerminateConnection, request)
    text = "the access is gone"
    if gone.sessions_closed:
        text += "; a live session was closed"
    if gone.remaining_attachment_ids:
        text += f"; still attached: {', '.join(gone.remaining_attachment_ids)}"
    done({"volume_id": volume_id, **document(gone)}, text)


def _details(connection: Connection) -> list[tuple[str, str]]:
    return [
        ("Volume", connection.volume_id),
        ("Attachment", connection.attachment_id),
        ("State", human.connection_state(connection)),
        ("Host", connection.host),
        ("Initiator", connection.initiator),
        ("Mode", human.access_mode(connection.access_mode)),
        ("From", " ".join(connection.peer_addresses)),
        ("Logged in since", human.moment(connection.logged_in_since)),
        ("Granted", human.moment(connection.create_time)),
        ("Commands", str(connection.commands)),
        ("Read", human.size(connection.read_bytes)),
        ("Written", human.size(connection.written_bytes)),
        ("Shared with", " ".join(connection.shared_with_attachment_ids)),
    ]
