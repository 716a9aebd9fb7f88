"""``lunctl tls``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import click

from targetd import tls_authority
from targetd.lunctl.cli import Group
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import done
from targetd.roles import Role
from targetd.tls_authority import AlreadyThere, AuthorityError, BadName, NoAuthority

STATUSES: dict[type[AuthorityError], Exit] = {
    AlreadyThere: Exit.OTHER_PARAMETERS,
    NoAuthority: Exit.NOT_FOUND,
    BadName: Exit.USAGE,
}
ROLES = [role.value for role in Role if role is not Role.NONE]


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except AuthorityError as error:
        raise CommandError(str(error), STATUSES.get(type(error), Exit.OTHER)) from error


def _written(paths: list[Path]) -> None:
    names = [str(path) for path in paths]
    done({"written": names}, "\n".join(names))


@click.group(cls=Group)
def command() -> None:
    """Make the certificates of a lab or a small site."""


def _folder_argument() -> click.Argument:
    return click.Argument(["folder"], type=click.Path(file_okay=False, path_type=Path))


@command.command(params=[_folder_argument()])
@click.option("--name", metavar="NAME", default="targetd", help="What it is called in them.")
def init(folder: Path, name: str) -> None:
    """Make an authority in FOLDER: ca.pem, and ca.key, which is best kept nowhere else."""
    with _told():
        _written(tls_authority.init(folder, name))


@command.command(params=[_folder_argument()])
@click.argument("name")
@click.option(
    "--server",
    "addresses",
    metavar="ADDRESS",
    multiple=True,
    help="For a daemon that clients reach at this host name or address; may be repeated.",
)
@click.option("--role", type=click.Choice(ROLES), help="For a client that may do what it says.")
@click.option("--days", type=click.IntRange(min=1), default=365, help="How long. Default: 365.")
@click.option("--renew", is_flag=True, help="Keep the key that is there, and replace the rest.")
def issue(
    folder: Path, name: str, addresses: tuple[str, ...], role: str | None, days: int, renew: bool
) -> None:
    """Make a certificate by the authority in FOLDER: NAME.pem and NAME.key beside it.

    It is for a daemon, with --server, or for a client, with --role. The daemon needs its two
    files and ca.pem (see [tls] in targetd.toml), a client ca.pem and its own two.
    """
    if bool(addresses) == bool(role):
        raise click.UsageError("say what it is for: --server ADDRESS, or --role ROLE")
    valid = timedelta(days=days)
    with _told():
        if role:
            _written(tls_authority.issue_client(folder, name, Role(role), valid, renew))
        else:
            _written(tls_authority.issue_server(folder, name, addresses, valid, renew))
