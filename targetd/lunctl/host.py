"""``lunctl host``."""

from __future__ import annotations

import click

from targetd.api.v1 import host_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Command
from targetd.lunctl.current import connect
from targetd.lunctl.output import answer


@click.command(cls=Command)
def command() -> None:
    """Show the storage host: version, portals, capabilities."""
    client = connect()
    host = client.call(client.hosts.GetHost, host_pb2.GetHostRequest())
    answer(host, lambda: _details(host))


def _details(host: host_pb2.Host) -> list[tuple[str, str]]:
    return [
        ("Host", host.hostname),
        ("Version", host.version),
        ("Running since", human.moment(host.start_time)),
        ("Kernel", host.kernel_release),
        ("Portals", " ".join(host.portals)),
        ("IQN prefix", host.iqn_prefix),
        ("Lock domain", host.lock_domain_id),
        ("Can", " ".join(host.capabilities)),
        (
            "Memory free",
            f"{human.size(host.memory_available_bytes)} of {human.size(host.memory_total_bytes)}",
        ),
    ]
