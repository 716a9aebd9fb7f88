"""``lunctl reconcile``."""

from __future__ import annotations

import click

from targetd.api.v1 import host_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Command
from targetd.lunctl.current import connect
from targetd.lunctl.documents import document
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import Column, emit, say, table
from targetd.lunctl.parameters import complete_volumes
from targetd.lunctl.settings import settings
from targetd.lunctl.style import styled

# All exports of a large host are looked at.
SECONDS = 600.0
Drift = host_pb2.Drift
COLUMNS = (
    Column[Drift]("VOLUME", lambda drift: drift.volume_id),
    Column[Drift]("WHAT DIFFERED", lambda drift: drift.what),
)


@click.command(cls=Command)
@click.argument(
    "volume_id", metavar="[VOLUME]", required=False, default="", shell_complete=complete_volumes
)
def command(volume_id: str) -> None:
    """Compare the kernel with the records and put right what is ours.

    Of one VOLUME, or of all. The daemon does the same from time to time by itself.
    Ends with 1 when something could not be put right.
    """
    client = connect()
    request = host_pb2.ReconcileRequest(volume_id=volume_id)
    found = client.call(client.hosts.Reconcile, request, settings().seconds(SECONDS))
    if settings().json:
        emit(document(found))
    else:
        _tell(found)
    if found.degraded_volume_ids:
        click.get_current_context().exit(Exit.OTHER)


def _tell(found: host_pb2.ReconcileResponse) -> None:
    if found.drifts:
        table(found.drifts, COLUMNS)
    for volume_id in found.degraded_volume_ids:
        say(f"{styled('degraded')}: {volume_id}; why: journalctl -u targetd")
    say(
        f"{human.counted(found.exports_checked, 'export')} checked, "
        f"{human.counted(len(found.drifts), 'difference')} found"
        + (", all put right" if found.drifts and not found.degraded_volume_ids else "")
    )
