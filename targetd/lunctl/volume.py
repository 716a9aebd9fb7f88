"""``lunctl volume``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from targetd.api.v1 import volume_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Group
from targetd.lunctl.current import connect
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import Column, answer, done, listing, note
from targetd.lunctl.parameters import (
    SIZE_TYPE,
    complete_snapshots,
    complete_volumes,
    confirm,
    own_or_new_id,
    pool_option,
    volume_argument,
    wait_option,
    yes_option,
)
from targetd.lunctl.waiting import wait

if TYPE_CHECKING:
    from targetd.lunctl.client import Client

Volume = volume_pb2.Volume
COLUMNS = (
    Column[Volume]("VOLUME", lambda volume: volume.volume_id),
    Column[Volume]("SIZE", lambda volume: human.size(volume.size_bytes), right=True),
    Column[Volume]("STATE", human.volume_state),
    Column[Volume]("POOL", lambda volume: volume.pool, 1),
    Column[Volume]("MULTI", lambda volume: human.yes(volume.multi_attach), 3),
    Column[Volume]("CREATED", lambda volume: human.moment(volume.create_time), 2),
)


@click.group(cls=Group)
def command() -> None:
    """Make, show, grow, delete, adopt and release volumes."""


@command.command("list")
@pool_option("Only those of this pool.")
def list_(pool: str) -> None:
    """Show all volumes."""
    client = connect()
    request = volume_pb2.ListVolumesRequest(pool=pool)
    listing("volumes", client.pages(client.volumes.ListVolumes, request, "volumes"), COLUMNS)


@command.command()
@volume_argument
def show(volume_id: str) -> None:
    """Show one volume. What it waits for, and who holds it: lunctl why."""
    _answer(get(connect(), volume_id))


@command.command()
@click.argument("volume_id", metavar="[VOLUME]", required=False)
@click.option("--size", "size_bytes", type=SIZE_TYPE, help="Like 10GiB. Default: its source's.")
@pool_option("Default: the only one.")
@click.option("--multi-attach", is_flag=True, help="Several hosts may be connected at once.")
@click.option(
    "--from-snapshot",
    metavar="SNAPSHOT",
    default="",
    shell_complete=complete_snapshots,
    help="Fill it with the data of a snapshot.",
)
@click.option(
    "--from-volume",
    metavar="VOLUME",
    default="",
    shell_complete=complete_volumes,
    help="Fill it with the data that another volume has now.",
)
@wait_option("it has been filled from its source")
def create(
    volume_id: str | None,
    size_bytes: int | None,
    pool: str,
    multi_attach: bool,
    from_snapshot: str,
    from_volume: str,
    waits: bool,
) -> None:
    """Make a volume, empty or filled from a source.

    VOLUME is its id, a UUID. Without one, an id is made and printed; to repeat a
    command that got no answer, give that id.
    """
    if from_snapshot and from_volume:
        raise click.UsageError("--from-snapshot and --from-volume: a volume has one source")
    client = connect()
    request = volume_pb2.CreateVolumeRequest(
        pool=pool,
        size_bytes=size_bytes or _size_of_source(client, from_snapshot, from_volume),
        multi_attach=multi_attach,
        source_snapshot_id=from_snapshot,
        source_volume_id=from_volume,
    )
    with own_or_new_id(volume_id) as request.volume_id:
        made = client.call(client.volumes.CreateVolume, request)
    if waits and made.operation_id:
        _wait_filled(client, made)
        made = get(client, made.volume_id)
    _answer(made)


def _size_of_source(client: Client, from_snapshot: str, from_volume: str) -> int:
    if from_volume:
        return get(client, from_volume).size_bytes
    if from_snapshot:
        request = volume_pb2.GetSnapshotRequest(snapshot_id=from_snapshot)
        return client.call(client.volumes.GetSnapshot, request).size_bytes
    raise click.UsageError("--size is needed, like --size 10GiB")


def _wait_filled(client: Client, made: Volume) -> None:
    try:
        wait(client, made.operation_id)
    except CommandError as error:
        error.hints.append(f"The volume: lunctl why {made.volume_id}")
        error.metadata["volume_id"] = made.volume_id
        raise


@command.command()
@volume_argument
@click.option("--size", "size_bytes", type=SIZE_TYPE, required=True, help="The new size, in all.")
def extend(volume_id: str, size_bytes: int) -> None:
    """Grow a volume; it may be attached. It is never made smaller."""
    client = connect()
    request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size_bytes)
    _answer(client.call(client.volumes.ExtendVolume, request))


@command.command()
@volume_argument
@yes_option
@wait_option("its data has been wiped")
def delete(volume_id: str, yes: bool, waits: bool) -> None:
    """Delete a volume and its data.

    Refused while it is exported, or has connections or snapshots. The wipe of its
    data goes on after the command, and survives restarts.
    """
    client = connect()
    found = find(client, volume_id)
    if found is not None:
        text = f"{human.size(found.size_bytes)} in pool {found.pool}"
        confirm(f"Delete volume {volume_id} ({text}) and its data?", yes)
    request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
    operation_id = client.call(client.volumes.DeleteVolume, request).operation_id
    deleted(client, "volume", volume_id, operation_id, found is not None, waits)


def deleted(
    client: Client, kind: str, name: str, operation_id: str, existed: bool, waits: bool
) -> None:
    """Tell of the end of a volume or snapshot, and wait for its wipe where asked to."""
    value = {f"{kind}_id": name, "existed": existed, "operation_id": operation_id}
    if operation_id and waits:
        wait(client, operation_id)
        done(value, f"{kind} {name} is deleted, and its data wiped")
        return
    done(
        value, f"{kind} {name} is deleted" if existed else f"{kind} {name} was not there; all well"
    )
    if operation_id:
        note(f"Its data is being wiped: lunctl operation watch {operation_id}")


@command.command()
@click.argument("lv_name", metavar="LV")
@click.option("--id", "volume_id", metavar="UUID", help="A UUID. Default: one is made.")
@pool_option("Default: the only one.")
@click.option("--multi-attach", is_flag=True, help="Several hosts may be connected at once.")
def adopt(lv_name: str, volume_id: str | None, pool: str, multi_attach: bool) -> None:
    """Take over the logical volume LV of the pool's volume group, with its data.

    Deleting the volume later deletes that data like any other's; release lets go of it.
    """
    client = connect()
    request = volume_pb2.AdoptVolumeRequest(pool=pool, lv_name=lv_name, multi_attach=multi_attach)
    with own_or_new_id(volume_id) as request.volume_id:
        made = client.call(client.volumes.AdoptVolume, request)
    _answer(made)


@command.command()
@volume_argument
@click.option(
    "--name", "lv_name", metavar="LV", default="", help="What the logical volume is to be called."
)
def release(volume_id: str, lv_name: str) -> None:
    """Let go of a volume: its logical volume and data stay on the host."""
    client = connect()
    request = volume_pb2.ReleaseVolumeRequest(volume_id=volume_id, lv_name=lv_name)
    path = client.call(client.volumes.ReleaseVolume, request).device_path
    done(
        {"volume_id": volume_id, "existed": bool(path), "device_path": path},
        f"volume {volume_id} is released; its data stays in {path}"
        if path
        else f"volume {volume_id} was not there; all well",
    )


def get(client: Client, volume_id: str) -> Volume:
    request = volume_pb2.GetVolumeRequest(volume_id=volume_id)
    return client.call(client.volumes.GetVolume, request)


def find(client: Client, volume_id: str) -> Volume | None:
    try:
        return get(client, volume_id)
    except CommandError as error:
        if error.status == Exit.NOT_FOUND:
            return None
        raise


def _answer(volume: Volume) -> None:
    answer(volume, lambda: _details(volume))


def _details(volume: Volume) -> list[tuple[str, str]]:
    return [
        ("Volume", volume.volume_id),
        ("State", human.volume_state(volume)),
        ("Size", f"{human.size(volume.size_bytes)} ({volume.size_bytes} bytes)"),
        ("Pool", f"{volume.pool} ({human.provisioning(volume.provisioning)})"),
        ("Multi-attach", human.yes(volume.multi_attach)),
        ("Device", volume.device_path),
        ("WWID", volume.wwid),
        ("Created", human.moment(volume.create_time)),
        ("From snapshot", volume.source_snapshot_id),
        ("From volume", volume.source_volume_id),
        ("Operation", volume.operation_id),
    ]
