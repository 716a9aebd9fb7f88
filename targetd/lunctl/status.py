"""``lunctl status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import click

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Command
from targetd.lunctl.connection import who
from targetd.lunctl.current import connect
from targetd.lunctl.documents import document
from targetd.lunctl.findings import Finding, list_pools, of_daemon
from targetd.lunctl.output import Column, emit, say, table
from targetd.lunctl.pool import PERCENT, used_percent
from targetd.lunctl.present import Present, present
from targetd.lunctl.settings import settings
from targetd.lunctl.style import HEADING, styled
from targetd.lunctl.waiting import describe

# More do not fit on one screen; the lists show all.
FINDINGS_MAX = 10
CONNECTIONS_MAX = 15
OPERATIONS_MAX = 5
Connection = export_pb2.Connection
COLUMNS = (
    Column[Connection]("VOLUME", lambda one: one.volume_id),
    Column[Connection]("STATE", human.connection_state),
    Column[Connection]("HOST", who, 1),
    Column[Connection]("SINCE", lambda one: human.moment(one.logged_in_since), 2),
    Column[Connection]("ATTACHMENT", lambda one: one.attachment_id, 3),
)


@click.command(cls=Command)
def command() -> None:
    """Show on one screen how the host is, and first what is wrong."""
    client = connect()
    host = client.call(client.hosts.GetHost, host_pb2.GetHostRequest())
    pools = list_pools(client)
    state = present(client)
    findings = of_daemon(client, state, pools or [])
    if settings().json:
        emit(
            {
                "host": document(host),
                "findings": [asdict(finding) for finding in findings],
                "pools": None if pools is None else [document(pool) for pool in pools],
                **state.documents(),
            }
        )
        return
    say(
        f"{host.hostname}: targetd {host.version}, since {human.moment(host.start_time)}, "
        f"on {' '.join(host.portals)}"
    )
    tell(findings[:FINDINGS_MAX])
    _more(len(findings) - FINDINGS_MAX, "lunctl doctor")
    if not findings:
        say(f"{styled('ok')}: nothing is wrong")
    _tell_pools(pools)
    _tell_volumes(state)
    _tell_work(state.operations)
    _tell_attached(state)


def tell(findings: Sequence[Finding]) -> None:
    """Each with its cure below it."""
    for finding in findings:
        say(f"{styled(finding.level)}: {human.clean(finding.what)}")
        if finding.cure:
            say(f"    {finding.cure}")


def _more(count: int, command_line: str) -> None:
    if count > 0:
        say(f"... and {count} more: {command_line}")


def _heading(text: str) -> None:
    say("")
    say(styled(text, HEADING))


def _tell_pools(pools: Sequence[volume_pb2.Pool] | None) -> None:
    _heading("Pools")
    if pools is None:
        say("not shown: your role is for attaching")
        return
    width = max((len(pool.name) for pool in pools), default=0)
    for pool in pools:
        share = used_percent(pool)
        say(
            f"{pool.name:{width}}  {human.bar(share)} {PERCENT.format(share):>5} of "
            f"{human.size(pool.total_bytes)}, {human.size(pool.provisioned_bytes)} promised"
        )


def _tell_volumes(state: Present) -> None:
    _heading("Volumes")
    states = Counter(human.volume_state(volume) for volume in state.volumes)
    states_text = ", ".join(f"{count} {name}" for name, count in states.most_common())
    say(
        f"{human.counted(len(state.volumes), 'volume')}{f' ({states_text})' if states else ''}, "
        f"{human.counted(len(state.snapshots), 'snapshot')}, {len(state.exports)} exported"
    )


def _tell_work(operations: Sequence[host_pb2.Operation]) -> None:
    if not operations:
        return
    _heading("Work")
    for operation in operations[:OPERATIONS_MAX]:
        say(describe(operation))
    _more(len(operations) - OPERATIONS_MAX, "lunctl operation list")


def _tell_attached(state: Present) -> None:
    _heading("Attached")
    if not state.connections:
        say("nobody")
        return
    logged_in = sum(one.logged_in for one in state.connections)
    say(f"{human.counted(len(state.connections), 'attachment')}, {logged_in} logged in")
    # Who is not logged in is what one looks for.
    shown = sorted(state.connections, key=lambda one: one.logged_in)[:CONNECTIONS_MAX]
    table(shown, COLUMNS)
    _more(len(state.connections) - CONNECTIONS_MAX, "lunctl connection list")
