"""Values in a command line: sizes, and ids that complete from the daemon."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from targetd.api.v1 import export_pb2, volume_pb2
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.human import size
from targetd.lunctl.present import present
from targetd.lunctl.settings import Settings
from targetd.lunctl.waiting import describe

if TYPE_CHECKING:
    from targetd.lunctl.client import Client

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)(i?B|)", re.IGNORECASE)
POWERS = ("", "K", "M", "G", "T", "P", "E")
# Somebody waits for it with a finger on the key.
COMPLETION_SECONDS = 1.0
COMPLETIONS_MAX = 200


class SizeType(click.ParamType[int, str | int]):
    """Bytes, from 10GiB or 10G (1024s), or 10GB (1000s). A number alone has no meaning."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        match = SIZE.fullmatch(value.strip())
        if match is None or not (match[2] or match[3]):
            self.fail(f"{value!r} is not a size; write it like 10GiB, 512MiB or 1.5TiB", param)
        base = 1000 if match[3].upper() == "B" and match[2] else 1024
        count = Fraction(match[1]) * base ** POWERS.index(match[2].upper())
        if not count:
            self.fail(f"{value!r} is no size", param)
        whole: int = ceil(count)
        return whole


Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[Any]]]
# Ids, each with a word about it.
Found = list[tuple[str, str]]
Find = Callable[["Client", click.Context], Found]


def _completing(find: Find) -> Complete:
    """A daemon that does not answer in time completes nothing, and says nothing."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        from targetd.lunctl.client import Client

        given = Settings.of(context)
        try:
            with closing(Client(replace(given, timeout=COMPLETION_SECONDS))) as client:
                found = find(client, context)
        except CommandError:
            return []
        fitting = [CompletionItem(name, help=word) for name, word in found]
        return [item for item in fitting if item.value.startswith(incomplete)][:COMPLETIONS_MAX]

    return complete


def _volumes(client: Client, context: click.Context) -> Found:
    found = client.pages(client.volumes.ListVolumes, volume_pb2.ListVolumesRequest(), "volumes")
    return [(one.volume_id, f"{size(one.size_bytes)} in {one.pool}") for one in found]


def _snapshots(client: Client, context: click.Context) -> Found:
    request = volume_pb2.ListSnapshotsRequest()
    found = client.pages(client.volumes.ListSnapshots, request, "snapshots")
    return [(one.snapshot_id, f"of {one.volume_id}") for one in found]


def _pools(client: Client, context: click.Context) -> Found:
    found = client.call(client.volumes.ListPools, volume_pb2.ListPoolsRequest()).pools
    return [(one.name, one.volume_group) for one in found]


def _exports(client: Client, context: click.Context) -> Found:
    found = client.pages(client.exports.ListExports, export_pb2.ListExportsRequest(), "exports")
    return [(one.volume_id, one.target_iqn) for one in found]


def _connections(client: Client, context: click.Context) -> Found:
    request = export_pb2.ListConnectionsRequest(volume_id=context.params.get("volume_id") or "")
    found = client.pages(client.exports.ListConnections, request, "connections")
    return [(one.attachment_id, one.host or one.initiator) for one in found]


def _operations(client: Client, context: click.Context) -> Found:
    return [(one.operation_id, describe(one)) for one in present(client).operations]


SIZE_TYPE = SizeType()
complete_volumes = _completing(_volumes)
complete_snapshots = _completing(_snapshots)
complete_pools = _completing(_pools)
complete_exports = _completing(_exports)
complete_connections = _completing(_connections)
complete_operations = _completing(_operations)


def volume_argument(command: Decorated) -> Decorated:
    return click.argument("volume_id", metavar="VOLUME", shell_complete=complete_volumes)(command)


def volume_option(command: Decorated) -> Decorated:
    return click.option(
        "--volume",
        "volume_id",
        metavar="VOLUME",
        default="",
        shell_complete=complete_volumes,
        help="Only those of this volume.",
    )(command)


def pool_option(help: str) -> Callable[[Decorated], Decorated]:
    return click.option(
        "--pool", metavar="POOL", default="", shell_complete=complete_pools, help=help
    )


def yes_option(command: Decorated) -> Decorated:
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


def wait_option(what: str) -> Callable[[Decorated], Decorated]:
    return click.option(
        "--wait", "waits", is_flag=True, help=f"Wait until {what}, and show how far it is."
    )


@contextmanager
def own_or_new_id(given: str | None) -> Iterator[str]:
    """An id that was made here is told when there was no answer: with it one can repeat."""
    used = given or str(uuid.uuid4())
    try:
        yield used
    except CommandError as error:
        if not given and error.status in (Exit.LATE, Exit.UNREACHABLE, Exit.OTHER):
            error.hints.append(f"The id made for it, to repeat the command with: {used}")
            error.metadata["id"] = used
        raise


def confirm(question: str, yes: bool) -> None:
    """Ask a person; whoever is none has to say ``--yes`` beforehand."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            "there is nobody to ask; say --yes to do it without", Exit.USAGE, reason="NOT_CONFIRMED"
        )
    if not click.confirm(question, err=True):
        raise CommandError("nothing was done", Exit.OTHER, reason="NOT_CONFIRMED")
