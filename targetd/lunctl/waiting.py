"""Waiting for long work, with a bar; the work goes on without whoever waits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from targetd.api.v1 import host_pb2
from targetd.lunctl import human
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import note

if TYPE_CHECKING:
    from rich.progress import Progress

    from targetd.lunctl.client import Client

# The daemon goes on with the work after a restart, so the one who waits does too.
AGAIN_SECONDS = 1.0

Show = Callable[[host_pb2.Operation], None]


def follow(client: Client, operation_id: str) -> Iterator[host_pb2.Operation]:
    """The operation at every step, until it has ended, also over restarts of the daemon.

    Raises CommandError when the daemon stays away for longer than ``--timeout``.
    """
    request = host_pb2.WatchOperationRequest(operation_id=operation_id)
    seen = time.monotonic()
    while True:
        try:
            for operation in client.stream(client.hosts.WatchOperation, request):
                seen = time.monotonic()
                yield operation
                if operation.state != host_pb2.OPERATION_STATE_RUNNING:
                    return
        except CommandError as error:
            away = time.monotonic() - seen
            if error.status != Exit.UNREACHABLE or away > client.settings.seconds():
                raise
            time.sleep(AGAIN_SECONDS)


def wait(client: Client, operation_id: str, show: Show | None = None) -> host_pb2.Operation:
    """Show how far it is until it is done. Raises CommandError when it ended otherwise."""
    last = host_pb2.Operation()
    try:
        with nullcontext(show) if show else _shown() as show_one:
            for last in follow(client, operation_id):
                show_one(last)
    except KeyboardInterrupt:
        raise CommandError(
            "no longer waiting; the work goes on on the storage host",
            Exit.INTERRUPTED,
            reason="INTERRUPTED",
            hints=(f"Look again: lunctl operation watch {operation_id}",),
            metadata={"operation_id": operation_id},
        ) from None
    _check(last)
    return last


def _check(operation: host_pb2.Operation) -> None:
    kind = human.operation_kind(operation)
    if operation.state == host_pb2.OPERATION_STATE_FAILED:
        raise CommandError(
            f"operation {operation.operation_id}: {operation.error or f'the {kind} failed'}",
            reason="OPERATION_FAILED",
            hints=(
                f"Try it again now: lunctl reconcile {operation.volume_id}",
                "Why it failed: journalctl -u targetd",
            ),
            metadata={"operation_id": operation.operation_id},
        )
    if operation.state == host_pb2.OPERATION_STATE_CANCELLED:
        raise CommandError(
            f"the {kind} ended because volume {operation.volume_id} was deleted",
            Exit.REFUSED,
            reason="OPERATION_CANCELLED",
            metadata={"operation_id": operation.operation_id},
        )


class _Lines:
    """On stderr, not more than one for each tenth."""

    def __init__(self) -> None:
        self._tenth = -1

    def __call__(self, operation: host_pb2.Operation) -> None:
        share = human.operation_share(operation)
        if int(share / 10) > self._tenth:
            self._tenth = int(share / 10)
            note(describe(operation))


def describe(operation: host_pb2.Operation) -> str:
    return (
        f"{human.operation_kind(operation)} {operation.operation_id}: "
        f"{human.operation_state(operation)}, {human.operation_share(operation):.0f} % of "
        f"{human.size(operation.total_bytes)}"
    )


@contextmanager
def _shown() -> Iterator[Show]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress)


class _Bar:
    """One bar on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def __call__(self, operation: host_pb2.Operation) -> None:
        self._progress.update(
            self._task,
            description=human.operation_kind(operation),
            completed=operation.done_bytes,
            total=operation.total_bytes,
        )
