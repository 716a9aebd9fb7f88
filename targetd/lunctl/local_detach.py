"""``lunctl local-detach``."""

from __future__ import annotations

import click

from targetd.lunctl.attachd import access_options, complete_local, local_volumes
from targetd.lunctl.cli import Command
from targetd.lunctl.output import done


@click.command(cls=Command)
@click.argument("volume_id", metavar="VOLUME", shell_complete=complete_local)
@access_options
def command(volume_id: str, url: str | None, project: str | None, token_file: str | None) -> None:
    """Take away the disk of a volume that local-attach brought.

    As root: writes out what is not yet written, removes the disk, logs out, and deletes the
    attachment. Refused while the disk is mounted, open or under another device. The same
    again finishes what was left half-done, also after a crash.
    """
    with local_volumes(url=url, project=project, token_file=token_file) as volumes:
        gone = volumes.detach(volume_id)
    text = f"volume {volume_id} is detached"
    if not gone.attachment_ids:
        text = "the disk is gone; attachd had no attachment of it" if gone.was_here else "not here"
    done(
        {
            "volume_id": volume_id,
            "attachment_ids": list(gone.attachment_ids),
            "existed": gone.was_here or bool(gone.attachment_ids),
        },
        text,
    )
