"""``lunctl watch``."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import click

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Command
from targetd.lunctl.connection import who
from targetd.lunctl.current import connect
from targetd.lunctl.documents import document, line
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import note, say
from targetd.lunctl.parameters import volume_option
from targetd.lunctl.settings import settings

KIND = host_pb2.Removed.Kind


@click.command(cls=Command)
@volume_option
def command(volume_id: str) -> None:
    """Follow every change on the host as it happens.

    Ctrl-C ends it. With --json, one document on a line: first what there is, then
    {"synced": true}, then the changes; each has the revision of the host's state.
    """
    client = connect()
    teller = Teller()
    try:
        for response in client.stream(client.hosts.Watch, host_pb2.WatchRequest()):
            kind = response.WhichOneof("change")
            if kind is None or (volume_id and not _is_of(response, kind, volume_id)):
                continue
            if settings().json:
                say(line(document(response)))
            else:
                teller.tell(kind, getattr(response, kind))
    except KeyboardInterrupt:
        click.get_current_context().exit(Exit.INTERRUPTED)


def _is_of(response: host_pb2.WatchResponse, kind: str, volume_id: str) -> bool:
    return kind == "synced" or getattr(response, kind).volume_id == volume_id


class Teller:
    """A line for each change that a person can see in it."""

    def __init__(self) -> None:
        self._synced = False
        # What was last said of each thing.
        self._said: dict[tuple[str, str], str] = {}

    def tell(self, kind: str, one: Any) -> None:
        if kind == "synced":
            self._synced = True
            self._begin()
            return
        gone = kind == "removed"
        if gone:
            kind = KIND.Name(one.kind).removeprefix("KIND_").lower()
        name, text = _name(kind, one), "removed" if gone else DESCRIPTIONS[kind](one)
        if self._said.get((kind, name)) == text:
            return
        self._said[kind, name] = text
        if self._synced:
            say(f"{datetime.now():%H:%M:%S}  {kind} {name}: {human.clean(text)}")

    def _begin(self) -> None:
        counts = Counter(kind for kind, _ in self._said)
        there = ", ".join(human.counted(count, kind) for kind, count in counts.items())
        note(f"There are {there or 'no volumes yet'}. What follows are changes; Ctrl-C ends it.")


def _name(kind: str, one: Any) -> str:
    if kind == "connection":
        return f"{one.attachment_id} of {one.volume_id}"
    return str(
        getattr(
            one, {"snapshot": "snapshot_id", "operation": "operation_id"}.get(kind, "volume_id")
        )
    )


def _volume(volume: volume_pb2.Volume) -> str:
    return f"{human.volume_state(volume)}, {human.size(volume.size_bytes)} in {volume.pool}"


def _snapshot(snapshot: volume_pb2.Snapshot) -> str:
    full = f", {snapshot.used_percent:.0f} % full" if snapshot.reserved_bytes else ""
    return f"of {snapshot.volume_id}{', overflowed' if snapshot.overflowed else full}"


def _export(export: export_pb2.Export) -> str:
    return (
        f"{human.counted(len(export.attachment_ids), 'attachment')}, "
        f"{human.counted(export.session_count, 'session')}"
    )


def _connection(connection: export_pb2.Connection) -> str:
    return f"{who(connection)}, {human.connection_state(connection)}"


def _operation(operation: host_pb2.Operation) -> str:
    return (
        f"{human.operation_kind(operation)} {human.operation_state(operation)}, "
        f"{human.operation_share(operation):.0f} %"
    )


DESCRIPTIONS: dict[str, Any] = {
    "volume": _volume,
    "snapshot": _snapshot,
    "export": _export,
    "connection": _connection,
    "operation": _operation,
}
