"""The commands of ``attachd``: to serve, and to look after storage hosts and tokens."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attachd import config
from attachd.errors import AttachError
from attachd.model import Caller, HostSpec, StorageHost
from targetd import __version__
from targetd.errors import NotReady, StartError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import Column, note, say, table
from targetd.lunctl.style import BAD, colour, styled

if TYPE_CHECKING:
    from attachd.site import Site
    from attachd.tokens import Token

PROGRAM = "attachd"
# From sysexits.h; the unit tries again after the second, and not after the first.
CONFIG_STATUS, NOT_READY_STATUS = 78, 75
EXITS = {
    400: Exit.USAGE,
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    409: Exit.REFUSED,
    413: Exit.NO_SPACE,
    503: Exit.UNREACHABLE,
    504: Exit.LATE,
}
# Who types commands here reads the records anyway.
ADMIN = Caller("", "attachd", is_admin=True)


class Failure(click.ClickException):
    """Ends the command with one line, and a status that says what kind of failure it is."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        # One for each class is what click declares; what it reads is this.
        self.exit_code = status  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"{styled(f'{PROGRAM}:', BAD)} {self.message}", err=True, color=colour())


@contextmanager
def told() -> Iterator[None]:
    """What cannot be done is said as one line."""
    try:
        yield
    except StartError as error:
        not_ready = isinstance(error, NotReady)
        raise Failure(str(error), NOT_READY_STATUS if not_ready else CONFIG_STATUS) from error
    except AttachError as error:
        raise Failure(str(error), EXITS.get(error.code, Exit.OTHER)) from error


@contextmanager
def opened(context: click.Context) -> Iterator[Site]:
    """The services by the configuration, for one command."""
    # Here, as in serve: most of the time of a command that needs none of it, as --help.
    from attachd import site

    with told():
        settings = config.load(context.obj)
        become_owner(settings.state_directory)
        with site.opened(settings) as found:
            yield found


def become_owner(state_directory: Path) -> None:
    """As root: whoever serves has to be able to use what a command makes there."""
    if os.geteuid() != 0 or not state_directory.exists():
        return
    owner = state_directory.stat()
    try:
        # With its groups: that of a storage host's socket is one of them.
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:
        # Whoever it is has a number only.
        os.setgroups([owner.st_gid])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=config.DEFAULT_PATH,
    show_default=True,
    help="The configuration.",
)
@click.option("--check-config", is_flag=True, help="Check the configuration, and do no more.")
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def root(context: click.Context, path: Path, check_config: bool) -> None:
    """Keep a record of each attachment of volumes, over any number of storage hosts.

    Without a command it serves.
    """
    context.obj = path
    if check_config:
        _check(path)
        context.exit()
    if context.invoked_subcommand is None:
        context.invoke(serve)


def _check(path: Path) -> None:
    with told():
        config.load(path)
    say(f"{path}: ok")


@root.command()
@click.pass_context
def serve(context: click.Context) -> None:
    """Serve the REST API until SIGTERM.

    SIGHUP takes over log_level and the files of [tls].
    """
    from attachd import service

    path: Path = context.obj
    with told():
        service.run(lambda: config.load(path))


@root.command()
@click.argument("volume_id", metavar="VOLUME")
@click.pass_context
def explain(context: click.Context, volume_id: str) -> None:
    """Say who has a volume, what it waits for, and what helps."""
    with opened(context) as site:
        for line in site.services.volumes.explain(ADMIN, volume_id):
            say(line)


@root.group()
def host() -> None:
    """Add, show, drain and remove storage hosts."""


@host.command("add")
@click.argument("name")
@click.argument("endpoint")
@click.pass_context
def add_host(context: click.Context, name: str, endpoint: str) -> None:
    """Make a storage host known: its name here, and unix:/PATH or HOST:PORT."""
    with opened(context) as site:
        site.services.hosts.add(HostSpec(name, endpoint))
    say(f"Storage host {name} is added.")


HOST_COLUMNS = (
    Column[StorageHost]("HOST", lambda host: host.name),
    Column[StorageHost]("ENDPOINT", lambda host: host.endpoint),
    Column[StorageHost]("STATE", lambda host: str(host.state)),
    Column[StorageHost]("VOLUMES", lambda host: str(host.volumes), right=True),
    Column[StorageHost]("ANSWERS", lambda host: "yes" if host.reachable else "no"),
    Column[StorageHost]("REASON", lambda host: host.reason),
)
as_json = click.option("--json", "in_json", is_flag=True, help="As JSON, for scripts.")


@host.command("list")
@as_json
@click.pass_context
def list_hosts(context: click.Context, in_json: bool) -> None:
    """Show the storage hosts, each asked now whether it answers."""
    with opened(context) as site:
        found = site.services.hosts.look()
    _listing(found, HOST_COLUMNS, in_json, "storage hosts")


@host.command("drain")
@click.argument("name")
@click.pass_context
def drain_host(context: click.Context, name: str) -> None:
    """Place nothing new on a storage host; what it has is served."""
    with opened(context) as site:
        site.services.hosts.drain(name)
    say(f"Storage host {name} gets no new volumes.")


@host.command("resume")
@click.argument("name")
@click.pass_context
def resume_host(context: click.Context, name: str) -> None:
    """Take back drain."""
    with opened(context) as site:
        site.services.hosts.resume(name)
    say(f"Storage host {name} gets new volumes again.")


@host.command("remove")
@click.argument("name")
@click.option("--lost", is_flag=True, help="It never comes back: forget its volumes too.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask, with --lost.")
@click.pass_context
def remove_host(context: click.Context, name: str, lost: bool, yes: bool) -> None:
    """Forget a storage host that has no volumes; nothing changes on it.

    With --lost it may have some, when it does not answer any more: they are forgotten with it, and
    so are their attachments and snapshots.
    """
    with opened(context) as site:
        if lost:
            question = f"Forget storage host {name} with all volumes that it had?"
            yes or click.confirm(question, abort=True, err=True)
            counts = site.services.hosts.forget(name)
            say(", ".join(f"{number} {kind}" for kind, number in counts.items()) + " forgotten.")
        else:
            site.services.hosts.remove(name)
    say(f"Storage host {name} is removed.")


@root.group()
def token() -> None:
    """Make, show and remove the tokens that clients call with."""


@token.command("add")
@click.option("--project", required=True, help="Whose volumes it is for.")
@click.option("--admin", is_flag=True, help="For every project, and what only admins may.")
@click.option("--name", default="", help="To know it by. Default: one is made.")
@click.pass_context
def add_token(context: click.Context, project: str, admin: bool, name: str) -> None:
    """Make a token, and show it this once."""
    with opened(context) as site:
        secret = site.tokens.add(project, is_admin=admin, name=name)
    say(secret)
    note("It is not shown again.")


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


TOKEN_COLUMNS: Sequence[Column[Token]] = (
    Column("NAME", lambda token: token.name),
    Column("PROJECT", lambda token: token.project_id),
    Column("ADMIN", lambda token: "yes" if token.is_admin else "no"),
    Column("CREATED", lambda token: _time(token.create_time)),
)


@token.command("list")
@as_json
@click.pass_context
def list_tokens(context: click.Context, in_json: bool) -> None:
    """Show the tokens by their names; nothing shows a token itself."""
    with opened(context) as site:
        found = site.tokens.list()
    _listing(found, TOKEN_COLUMNS, in_json, "tokens")


@token.command("remove")
@click.argument("name")
@click.pass_context
def remove_token(context: click.Context, name: str) -> None:
    """Have a token be good for nothing, within some seconds."""
    with opened(context) as site:
        site.tokens.remove(name)
    say(f"Token {name} is removed.")


def _listing(
    items: Sequence[Any], columns: Sequence[Column[Any]], in_json: bool, what: str
) -> None:
    if in_json:
        rows = [{one.title.lower(): one.text(item) for one in columns} for item in items]
        click.echo(json.dumps(rows, indent=2))
    elif items:
        table(items, columns)
    else:
        note(f"There are no {what}.")
