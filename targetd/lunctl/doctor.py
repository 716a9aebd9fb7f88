"""``lunctl doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC
from pathlib import Path

import click

from targetd import config as configuration
from targetd.api.v1 import host_pb2
from targetd.errors import StartError
from targetd.lunctl.cli import Command
from targetd.lunctl.current import connect
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.findings import ERROR, OK, SKIPPED, WARNING, Finding, list_pools, of_daemon
from targetd.lunctl.output import emit, say
from targetd.lunctl.present import Present, present
from targetd.lunctl.settings import settings
from targetd.lunctl.status import tell
from targetd.model import Export


@click.command(cls=Command)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=configuration.DEFAULT_PATH,
    show_default=True,
    help="The daemon's configuration, which says what to look for.",
)
def command(path: Path) -> None:
    """Check this host and explain each finding with its cure.

    On the storage host, as root, it looks at the unit, the kernel modules, LVM, the pools,
    the records and keys, and asks the daemon; elsewhere, with --endpoint, it only asks the
    daemon. It changes nothing. Ends with 1 when it has found an error or a warning.
    """
    found = [*_local(path), *_daemon()]
    wrong = [finding for finding in found if finding.level in (ERROR, WARNING)]
    if settings().json:
        emit({"findings": [asdict(finding) for finding in found]})
    else:
        rank = {ERROR: 0, WARNING: 1}
        tell(sorted(found, key=lambda finding: rank.get(finding.level, 2)))
        say(f"{len(wrong)} to look at, {sum(one.level == OK for one in found)} as they must be")
    if wrong:
        click.get_current_context().exit(Exit.OTHER)


def _local(path: Path) -> list[Finding]:
    if not settings().endpoint.startswith("unix:"):
        return [Finding(SKIPPED, "host", "only the daemon is asked: it is on another host")]
    if os.geteuid() != 0:
        return [
            Finding(SKIPPED, "host", "only the daemon is asked: looking at the host needs root")
        ]
    try:
        config = configuration.load(path)
    except StartError as error:
        return [Finding(ERROR, "configuration", str(error))]
    # Not at the top: they bring the engines with them.
    from targetd.lunctl.checks import check_host

    return [Finding(OK, "configuration", f"{path} is right"), *check_host(config)]


def _daemon() -> Iterator[Finding]:
    client = connect()
    try:
        host = client.call(client.hosts.GetHost, host_pb2.GetHostRequest())
        pools = list_pools(client)
        state = present(client)
        found = of_daemon(client, state, pools or [])
    except CommandError as error:
        yield Finding(ERROR, "daemon", error.message, "; ".join(error.hints))
        return
    yield from found
    if pools is None:
        yield Finding(SKIPPED, "pools", "they are not shown: your role is for attaching")
    if not found:
        yield Finding(OK, "daemon", f"targetd {host.version} serves, and all it has is well")
    if state.exports and settings().endpoint.startswith("unix:"):
        yield _portals(list(host.portals), state)


def _portals(portals: list[str], state: Present) -> Finding:
    # As the engines: brought in only for this host.
    from targetd.host import missing_listeners

    exports = [Export(one.volume_id, one.create_time.ToDatetime(UTC)) for one in state.exports]
    missing = missing_listeners(portals, exports)
    if missing:
        return Finding(
            ERROR,
            "portals",
            f"volumes are exported, and nothing listens on {', '.join(missing)}",
            "lunctl reconcile",
        )
    return Finding(OK, "portals", f"the kernel listens on {', '.join(portals)}")
