"""The help, the manual page and the reference say the same, and say it of everything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from targetd.lunctl import manual
from targetd.lunctl.cli import COMMANDS, PROGRAM, root
from targetd.lunctl.exits import MEANINGS
from tests.lunctl import ROOT, Lunctl

OUTER = click.Context(root, info_name=PROGRAM)


def test_what_is_generated_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "targetd.lunctl.manual", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


def test_an_old_file_is_noticed(tmp_path: Path) -> None:
    for name in ("lunctl.1", "lunctl.md"):
        shutil.copy(manual.DOCS / name, tmp_path)
    (tmp_path / "lunctl.md").write_text("old")
    code = (
        "from pathlib import Path; from targetd.lunctl import manual; import sys; "
        f"manual.DOCS = Path({str(tmp_path)!r}); manual.main()"
    )
    for arguments, status in ((["--check"], 1), ([], 0), (["--check"], 0)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], check=False, cwd=ROOT)
        assert done.returncode == status


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says(name: str) -> None:
    command = root.get_command(OUTER, name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name]


def test_everything_is_described() -> None:
    written = (manual.DOCS / "lunctl.md").read_text()
    page = (manual.DOCS / "lunctl.1").read_text()
    for entry in manual.entries():
        assert entry.text, entry.name
        assert f"### {entry.name}\n" in written
        assert f"\n.SS {entry.name} ".replace("-", "\\-") in page
        assert all(text for _, text in entry.options), entry
    for status in MEANINGS:
        assert f"| {int(status)} |" in written and f"\n.B {int(status)}\n" in page
    for option in ("--endpoint", "--tls-ca", "--timeout", "LUNCTL_ENDPOINT"):
        assert option in written


def test_each_command_has_help() -> None:
    lunctl = Lunctl.__new__(Lunctl)
    lunctl.endpoint = "unix:/nowhere"
    for entry in manual.entries():
        words = entry.name.split()[1:]
        shown = lunctl.run(*words, "--help").stdout
        assert shown.startswith(f"Usage: {entry.name}") and "--json" in shown


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_page_is_troff() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", str(manual.DOCS / "lunctl.1")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    # Bold letters are written twice over each other.
    assert "--from-snapshot" in re.sub(".\b", "", done.stdout)
