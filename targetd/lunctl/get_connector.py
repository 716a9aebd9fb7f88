"""``lunctl get-connector``."""

from __future__ import annotations

import click

from targetd.lunctl.attachd import Access, explained
from targetd.lunctl.cli import Command
from targetd.lunctl.output import details, emit
from targetd.lunctl.settings import settings


@click.command(cls=Command)
@click.option("--multipath", is_flag=True, help="As local-attach --multipath tells it.")
@click.option(
    "--url",
    envvar="LUNCTL_URL",
    show_envvar=True,
    metavar="URL",
    help="Where attachd is: by which address this host is seen there.",
)
def command(multipath: bool, url: str | None) -> None:
    """Show what attachd is told of this host: the connector.

    As root, who alone may read the initiator's name. Nothing is asked of attachd.
    """
    from targetd_local import LocalError, LocalVolumes

    access = Access.of({"url": url})
    try:
        found = LocalVolumes(access.attachd(settings())).connector(multipath=multipath)
    except LocalError as error:
        raise explained(error) from None
    if settings().json:
        emit(found)
    else:
        details((key, str(value)) for key, value in found.items())
