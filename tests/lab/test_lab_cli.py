"""``python -m lab``: what it says, and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import preconditions
from lab.__main__ import main
from lab.errors import MemoryShort, NotRoot, ProgramsMissing, SharedMemory

ROOT = Path(__file__).resolve().parents[2]


def _lab(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_names_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "check" in text
    assert "examples:" in text


@pytest.mark.parametrize("arguments", [[], ["run", "--disk", "4X"], ["check", "--nodes", "0"]])
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_check_without_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotRoot):
        preconditions.check(1)
    assert main(["check"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "sudo" in error


def test_missing_kernel_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preconditions, "PROGRAMS", {"no-such-kernel": "user-mode-linux"})
    with pytest.raises(ProgramsMissing, match="apt-get install user-mode-linux"):
        preconditions.check(1)


@pytest.fixture
def lab_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has all the programs, so that the checks after them are reached."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preconditions, "_check_programs", lambda: None)


@pytest.mark.usefixtures("lab_programs")
@pytest.mark.lab
def test_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SharedMemory, match="remount,size="):
        preconditions.check(1 << 40)
    monkeypatch.setattr(preconditions, "available_mib", lambda: 0)
    with pytest.raises(MemoryShort, match="fewer nodes"):
        preconditions.check(1)


@pytest.mark.lab
def test_check_says_ready() -> None:
    done = _lab("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ready" in done.stdout


@pytest.mark.lab
def test_run_passes_output_and_status() -> None:
    done = _lab("run", "--disk", "64M", "--", "sh", "-c", "lsblk -nbo SIZE /dev/ubda; exit 7")
    assert (done.returncode, done.stdout.strip()) == (7, str(64 << 20))
    assert "booting" in done.stderr


@pytest.mark.lab
def test_prompt_goes_from_node_to_node() -> None:
    done = _lab("run", "--nodes", "2", stdin="hostname\n@host1\nhostname\n@nowhere\nfalse\n")
    assert done.stdout == "storage\nhost1\n"
    assert "no node nowhere" in done.stderr
    assert done.returncode == 1


def test_unknown_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--node", "host1", "--", "true"]) == 1
    assert "host1" in capsys.readouterr().err
