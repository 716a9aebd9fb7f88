"""``lunctl snapshot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from targetd.api.v1 import volume_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Group
from targetd.lunctl.current import connect
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import Column, answer, listing
from targetd.lunctl.parameters import (
    SIZE_TYPE,
    complete_snapshots,
    confirm,
    own_or_new_id,
    volume_argument,
    volume_option,
    wait_option,
    yes_option,
)
from targetd.lunctl.volume import deleted

if TYPE_CHECKING:
    from targetd.lunctl.client import Client

Snapshot = volume_pb2.Snapshot


def _full(snapshot: Snapshot) -> str:
    """How full its own space is, where it has some."""
    if snapshot.overflowed:
        return "overflowed"
    return f"{snapshot.used_percent:.0f} %" if snapshot.reserved_bytes else ""


COLUMNS = (
    Column[Snapshot]("SNAPSHOT", lambda snapshot: snapshot.snapshot_id),
    Column[Snapshot]("VOLUME", lambda snapshot: snapshot.volume_id),
    Column[Snapshot]("SIZE", lambda snapshot: human.size(snapshot.size_bytes), 1, right=True),
    Column[Snapshot]("FULL", _full, 2, right=True),
    Column[Snapshot]("CREATED", lambda snapshot: human.moment(snapshot.create_time), 3),
)


@click.group(cls=Group)
def command() -> None:
    """Make, show and delete snapshots of volumes."""


@command.command("list")
@volume_option
def list_(volume_id: str) -> None:
    """Show all snapshots."""
    client = connect()
    request = volume_pb2.ListSnapshotsRequest(volume_id=volume_id)
    found = client.pages(client.volumes.ListSnapshots, request, "snapshots")
    listing("snapshots", found, COLUMNS)


@command.command()
@click.argument("snapshot_id", metavar="SNAPSHOT", shell_complete=complete_snapshots)
def show(snapshot_id: str) -> None:
    """Show one snapshot."""
    _answer(_get(connect(), snapshot_id))


@command.command()
@volume_argument
@click.argument("snapshot_id", metavar="[SNAPSHOT]", required=False)
@click.option(
    "--reserve",
    "reserve_bytes",
    type=SIZE_TYPE,
    default=None,
    help="Thick volumes only: the space for what changes. Default: the volume's size.",
)
def create(volume_id: str, snapshot_id: str | None, reserve_bytes: int | None) -> None:
    """Keep VOLUME as it is now; it may be attached.

    SNAPSHOT is an id, a UUID. Without one, an id is made and printed.
    """
    client = connect()
    request = volume_pb2.CreateSnapshotRequest(
        volume_id=volume_id, reserve_bytes=reserve_bytes or 0
    )
    with own_or_new_id(snapshot_id) as request.snapshot_id:
        made = client.call(client.volumes.CreateSnapshot, request)
    _answer(made)


@command.command()
@click.argument("snapshot_id", metavar="SNAPSHOT", shell_complete=complete_snapshots)
@yes_option
@wait_option("what it kept has been wiped")
def delete(snapshot_id: str, yes: bool, waits: bool) -> None:
    """Delete a snapshot. Refused while a volume is being filled from it."""
    client = connect()
    existed = True
    try:
        found = _get(client, snapshot_id)
        confirm(f"Delete snapshot {snapshot_id} of volume {found.volume_id}?", yes)
    except CommandError as error:
        if error.status != Exit.NOT_FOUND:
            raise
        existed = False
    request = volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
    operation_id = client.call(client.volumes.DeleteSnapshot, request).operation_id
    deleted(client, "snapshot", snapshot_id, operation_id, existed, waits)


def _get(client: Client, snapshot_id: str) -> Snapshot:
    request = volume_pb2.GetSnapshotRequest(snapshot_id=snapshot_id)
    return client.call(client.volumes.GetSnapshot, request)


def _answer(snapshot: Snapshot) -> None:
    answer(snapshot, lambda: _details(snapshot))


def _details(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [
        ("Snapshot", snapshot.snapshot_id),
        ("Volume", snapshot.volume_id),
        ("Size", f"{human.size(snapshot.size_bytes)} ({snapshot.size_bytes} bytes)"),
        ("Pool", f"{snapshot.pool} ({human.provisioning(snapshot.provisioning)})"),
        ("Own space", human.size(snapshot.reserved_bytes) if snapshot.reserved_bytes else ""),
        ("Full", _full(snapshot)),
        ("Created", human.moment(snapshot.create_time)),
    ]
