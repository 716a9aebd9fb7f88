"""``lunctl operation``."""

from __future__ import annotations

import click

from targetd.api.v1 import host_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Group
from targetd.lunctl.current import connect
from targetd.lunctl.documents import document, line
from targetd.lunctl.output import Column, answer, listing, say
from targetd.lunctl.parameters import complete_operations
from targetd.lunctl.present import present
from targetd.lunctl.settings import settings
from targetd.lunctl.waiting import describe, wait

Operation = host_pb2.Operation
COLUMNS = (
    Column[Operation]("OPERATION", lambda one: one.operation_id),
    Column[Operation]("KIND", human.operation_kind),
    Column[Operation]("STATE", human.operation_state, 1),
    Column[Operation]("DONE", lambda one: f"{human.operation_share(one):.0f} %", right=True),
    Column[Operation]("OF", lambda one: human.size(one.total_bytes), 2, right=True),
    Column[Operation]("STARTED", lambda one: human.moment(one.start_time), 3),
)


@click.group(cls=Group)
def command() -> None:
    """Show and follow long work: wipes and copies."""


@command.command("list")
def list_() -> None:
    """Show the work that has not ended."""
    listing("operations", present(connect()).operations, COLUMNS)


def _operation_argument() -> click.Argument:
    return click.Argument(["operation_id"], metavar="OPERATION", shell_complete=complete_operations)


@command.command(params=[_operation_argument()])
def show(operation_id: str) -> None:
    """Show one piece of work, also one that has ended."""
    client = connect()
    request = host_pb2.GetOperationRequest(operation_id=operation_id)
    operation = client.call(client.hosts.GetOperation, request)
    answer(operation, lambda: _details(operation))


@command.command(params=[_operation_argument()])
def watch(operation_id: str) -> None:
    """Follow one piece of work until it has ended.

    With --json, one document on a line for each step.
    """
    client = connect()
    if settings().json:
        wait(client, operation_id, lambda operation: say(line(document(operation))))
        return
    say(describe(wait(client, operation_id)))


def _details(operation: Operation) -> list[tuple[str, str]]:
    share = human.operation_share(operation)
    return [
        ("Operation", operation.operation_id),
        ("Kind", human.operation_kind(operation)),
        ("State", human.operation_state(operation)),
        ("Volume", operation.volume_id),
        (
            "Done",
            f"{human.bar(share)} {share:.0f} %: {human.size(operation.done_bytes)} of "
            f"{human.size(operation.total_bytes)}",
        ),
        ("Started", human.moment(operation.start_time)),
        ("Error", operation.error),
    ]
