"""``lunctl pool``."""

from __future__ import annotations

import click

from targetd.api.v1 import volume_pb2
from targetd.lunctl import human
from targetd.lunctl.cli import Group
from targetd.lunctl.current import connect
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import Column, answer, listing
from targetd.lunctl.parameters import complete_pools

PERCENT = "{:.0f} %"


def used_percent(pool: volume_pb2.Pool) -> float:
    """Of its space; the rest takes new data."""
    if pool.thin_pool:
        return pool.data_percent
    return human.percent(pool.total_bytes - pool.free_bytes, pool.total_bytes)


def vg_metadata_percent(pool: volume_pb2.Pool) -> float:
    total = pool.vg_metadata_total_bytes
    return human.percent(total - pool.vg_metadata_free_bytes, total) if total else 0.0


def place(pool: volume_pb2.Pool) -> str:
    return f"{pool.volume_group}/{pool.thin_pool}" if pool.thin_pool else pool.volume_group


COLUMNS = (
    Column[volume_pb2.Pool]("POOL", lambda pool: pool.name),
    Column[volume_pb2.Pool]("KIND", lambda pool: human.provisioning(pool.provisioning), 2),
    Column[volume_pb2.Pool]("IN LVM", place, 3),
    Column[volume_pb2.Pool]("SIZE", lambda pool: human.size(pool.total_bytes), right=True),
    Column[volume_pb2.Pool]("USED", lambda pool: PERCENT.format(used_percent(pool)), right=True),
    Column[volume_pb2.Pool](
        "METADATA",
        lambda pool: PERCENT.format(pool.metadata_percent) if pool.thin_pool else "",
        1,
        right=True,
    ),
    Column[volume_pb2.Pool](
        "PROMISED", lambda pool: human.size(pool.provisioned_bytes), 1, right=True
    ),
    Column[volume_pb2.Pool]("WIPE", lambda pool: human.wipe_policy(pool.wipe), 4),
)


@click.group(cls=Group)
def command() -> None:
    """Show the pools that volumes are made in."""


def pools() -> list[volume_pb2.Pool]:
    client = connect()
    return list(client.call(client.volumes.ListPools, volume_pb2.ListPoolsRequest()).pools)


@command.command("list")
def list_() -> None:
    """Show all pools and how full they are."""
    listing("pools", pools(), COLUMNS)


@command.command()
@click.argument("name", metavar="POOL", shell_complete=complete_pools)
def show(name: str) -> None:
    """Show one pool with all its figures."""
    found = {pool.name: pool for pool in pools()}
    if name not in found:
        raise CommandError(
            f"there is no pool {name}",
            Exit.NOT_FOUND,
            hints=(f"The pools are: {', '.join(sorted(found))}",),
        )
    answer(found[name], lambda: _details(found[name]))


def _details(pool: volume_pb2.Pool) -> list[tuple[str, str]]:
    thin = bool(pool.thin_pool)
    return [
        ("Pool", pool.name),
        ("Kind", human.provisioning(pool.provisioning)),
        ("In LVM", place(pool)),
        ("Size", human.size(pool.total_bytes)),
        ("Used", f"{human.bar(used_percent(pool))} {PERCENT.format(used_percent(pool))}"),
        ("Metadata", PERCENT.format(pool.metadata_percent) if thin else ""),
        ("Free", human.size(pool.free_bytes)),
        ("Promised", f"{human.size(pool.provisioned_bytes)}, {pool.over_subscription:.2f} x size"),
        ("Extent", human.size(pool.extent_bytes)),
        ("LVM's metadata", f"{PERCENT.format(vg_metadata_percent(pool))} of the group's area used"),
        ("Wipe", human.wipe_policy(pool.wipe)),
    ]
