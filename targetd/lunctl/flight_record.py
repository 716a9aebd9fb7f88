"""``lunctl flight-record``."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from targetd.api.v1 import host_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Command
from targetd.lunctl.current import connect
from targetd.lunctl.documents import document
from targetd.lunctl.output import emit, note, say
from targetd.lunctl.parameters import volume_option
from targetd.lunctl.settings import settings
from targetd.lunctl.style import styled


@click.command("flight-record", cls=Command)
@volume_option
def command(volume_id: str) -> None:
    """Show what was lately asked of LVM and of the kernel.

    Oldest first, with how long each took; what still runs and should have ended hangs.
    There are no secrets in it, but the names of initiators.
    """
    client = connect()
    request = host_pb2.GetFlightRecordRequest(volume_id=volume_id)
    record = client.call(client.hosts.GetFlightRecord, request)
    if settings().json:
        emit(document(record))
        return
    if not record.entries:
        note("There is nothing in the record.")
    for entry in record.entries:
        _tell(entry)


def _tell(entry: host_pb2.FlightEntry) -> None:
    start = entry.start_time.ToDatetime(UTC).astimezone()
    took = entry.duration.seconds + entry.duration.nanos / 1e9
    state = "running" if entry.running else "failed" if entry.failure else ""
    about = f"{_moment(start)} {took:9.3f} s  {entry.what} {entry.object}"
    failure = f": {human.clean(entry.failure)}" if entry.failure else ""
    say(f"{human.clean(about)}  {styled(state)}{failure}".rstrip())


def _moment(time: datetime) -> str:
    return f"{time:%H:%M:%S}.{time.microsecond // 1000:03d}"
