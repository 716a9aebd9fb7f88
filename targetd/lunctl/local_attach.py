"""``lunctl local-attach``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from targetd.lunctl.attachd import access_options, complete_remote, local_volumes
from targetd.lunctl.cli import Command
from targetd.lunctl.output import details, emit, note
from targetd.lunctl.settings import settings

if TYPE_CHECKING:
    from targetd_local import Attached


@click.command(cls=Command)
@click.argument("volume_id", metavar="VOLUME", shell_complete=complete_remote)
@click.option(
    "--mountpoint",
    metavar="TEXT",
    help="What attachd's record says of it, such as /dev/vdb or /srv. Nothing is mounted.",
)
@click.option(
    "--multipath", is_flag=True, help="Over all portals, as one device of multipathd, which runs."
)
@click.option(
    "--mode",
    type=click.Choice(["rw", "ro"]),
    default="rw",
    show_default=True,
    help="With ro the target refuses its writes.",
)
@access_options
def command(
    volume_id: str,
    mountpoint: str | None,
    multipath: bool,
    mode: str,
    url: str | None,
    project: str | None,
    token_file: str | None,
) -> None:
    """Attach a volume of attachd as a disk of this host.

    As root: asks attachd for access, logs in with open-iscsi, waits for the disk, sees that
    it is the one, and prints its device. The same again prints the same device; after a
    boot it brings it back. What fails, or is left with Ctrl-C, leaves nothing.
    """
    with local_volumes(url=url, project=project, token_file=token_file) as volumes:
        found = volumes.attach(volume_id, mode=mode, multipath=multipath, mountpoint=mountpoint)
    for missing in found.disk.missing:
        note(f"a path is missing: {missing}")
    if settings().json:
        emit({"attachment_id": found.attachment_id, "mode": found.mode, **asdict(found.disk)})
    else:
        details(_details(found))


def _details(found: Attached) -> list[tuple[str, str]]:
    disk = found.disk
    return [
        ("Device", disk.device),
        ("Lasting name", disk.link),
        ("Volume", disk.volume_id),
        ("Attachment", found.attachment_id),
        ("Mode", found.mode),
        ("WWID", disk.wwid),
        ("Paths", ", ".join(f"{path.device} at {path.portal}" for path in disk.paths)),
    ]
