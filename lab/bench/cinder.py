"""Cinder's own helper program, installed once into a virtual environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from lab.errors import LabError

FOLDER = Path("build/cinder-venv").absolute()
PROGRAM = FOLDER / "bin" / "cinder-rtstool"
RELEASE = "cinder==29.0.0"


def program(say: Callable[[str], None], install: bool) -> str:
    """The path of cinder-rtstool, or an empty text where it is not to be installed.

    Raises LabError.
    """
    if not PROGRAM.exists():
        if not install:
            return ""
        _install(say)
    return str(PROGRAM)


def _install(say: Callable[[str], None]) -> None:
    say(f"installing {RELEASE} into {FOLDER}; this takes some minutes")
    venv.create(FOLDER, with_pip=True, clear=True)
    done = subprocess.run(
        [
            *(str(FOLDER / "bin" / "python"), "-m", "pip", "install"),
            *("--progress-bar", "off", "--disable-pip-version-check", RELEASE),
        ],
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode or not PROGRAM.exists():
        raise LabError(f"{RELEASE} could not be installed; pip says why above")
