"""``lunctl setup``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from targetd.install import install, uninstall
from targetd.lunctl.cli import Command
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import done

NEXT = (
    "Next: write the pools into {root}etc/targetd/targetd.toml, see targetd --check-config, then "
    "systemctl enable --now targetd"
)


@click.command(cls=Command)
@click.option("--remove", is_flag=True, help="Take away what was installed; data stays.")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Below which folder.",
)
@click.option(
    "--bin",
    "bin_directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where targetd is found. Default: where this lunctl's Python is.",
)
def command(remove: bool, root: Path, bin_directory: Path | None) -> None:
    """Install or remove what systemd needs of targetd.

    Writes the unit, the group and folder of the socket, the modules to load, and a commented
    configuration where there is none. It neither enables nor starts the daemon. With
    --remove the daemon is stopped and its unit goes; exports, configuration and records stay.
    """
    try:
        if remove:
            _tell("left", uninstall(root), "")
        else:
            # Not resolved: in a virtual environment that would be another one's Python.
            place = bin_directory or Path(sys.executable).parent
            _tell("written", install(root, place), NEXT.format(root=f"{root}/".replace("//", "/")))
    except PermissionError as error:
        raise CommandError(
            f"{error.filename} cannot be written", Exit.NOT_ALLOWED, hints=("Run it as root.",)
        ) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error


def _tell(key: str, paths: list[Path], further: str) -> None:
    lines = [f"{key}: {path}" for path in paths]
    done({key: [str(path) for path in paths]}, "\n".join(filter(None, [*lines, further])))
