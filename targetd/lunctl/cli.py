"""The program: its commands, each loaded only when it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from targetd import __version__
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.settings import global_options

PROGRAM = "lunctl"
# With what is said of each in the list of commands: importing all of them to ask them
# would take longer than anything else that --help does. A test compares.
COMMANDS: Mapping[str, str] = {
    "status": "Show on one screen how the host is, and first what is wrong.",
    "why": "Explain what a volume waits for and who holds it.",
    "watch": "Follow every change on the host as it happens.",
    "doctor": "Check this host and explain each finding with its cure.",
    "volume": "Make, show, grow, delete, adopt and release volumes.",
    "snapshot": "Make, show and delete snapshots of volumes.",
    "pool": "Show the pools that volumes are made in.",
    "export": "Make, show and remove the iSCSI targets of volumes.",
    "connection": "Give initiators access to volumes, show it, take it away.",
    "session": "Show who is logged in.",
    "operation": "Show and follow long work: wipes and copies.",
    "reconcile": "Compare the kernel with the records and put right what is ours.",
    "host": "Show the storage host: version, portals, capabilities.",
    "flight-record": "Show what was lately asked of LVM and of the kernel.",
    "local-attach": "Attach a volume of attachd as a disk of this host.",
    "local-detach": "Take away the disk of a volume that local-attach brought.",
    "get-connector": "Show what attachd is told of this host: the connector.",
    "tls": "Make the certificates of a lab or a small site.",
    "setup": "Install or remove what systemd needs of targetd.",
    "completion": "Print the completion script of a shell.",
}


class Command(click.Command):
    """With the program's own options, so that they can stand anywhere."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params.extend(global_options(inner=True))


class Group(click.Group):
    command_class = Command


class Root(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = import_module(f"targetd.lunctl.{name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise CommandError(
                "interrupted",
                Exit.INTERRUPTED,
                hints=("What the daemon had begun goes on; the same command again tells.",),
            ) from None


@click.group(
    cls=Root,
    params=[*global_options(inner=False)],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="The options can also stand after the command. Exit statuses and the form of JSON: "
    "man lunctl.",
)
@click.version_option(__version__, prog_name=PROGRAM)
def root() -> None:
    """Look at a targetd storage host, and change it."""
