"""The units: how exposed they leave their programs, and that what they name is there."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from attachd import commands
from attachd.config import Config
from targetd import __main__ as command
from targetd import runtime_directory
from targetd.engines import lio_start

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "targetd.service"
EXPOSURE_MAX = {"targetd": 3.0, "attachd": 1.5}
programs = pytest.mark.parametrize("program", EXPOSURE_MAX)


def unit(program: str) -> Path:
    return SYSTEMD / f"{program}.service"


def findings(program: str) -> str:
    return subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit(program))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@programs
def test_the_exposure_is_low(program: str) -> None:
    wanted = rf"Overall exposure level for {program}\.service: ([\d.]+)"
    (found,) = re.findall(wanted, findings(program))
    assert float(found) <= EXPOSURE_MAX[program]


@programs
def test_every_exposure_has_its_reason(program: str) -> None:
    """The comment of the unit names all that systemd-analyze marks."""
    text = unit(program).read_text(encoding="utf-8")
    comment = text[text.index("# Hardening") : text.index("CapabilityBoundingSet=")]
    for setting in re.findall(r"^✗ (\S+)", findings(program), re.MULTILINE):
        name, _, exposed = setting.partition("=")
        if name == "CapabilityBoundingSet":
            assert any(one in comment for one in _capabilities(exposed)), setting
        elif name == "SystemCallFilter":
            assert exposed.removeprefix("~") in comment, setting
        else:
            assert f"# {name}=" in comment, setting


def _capabilities(exposed: str) -> list[str]:
    """Of "~CAP_SYS_(NICE|RESOURCE)" both."""
    before, _, rest = exposed.removeprefix("~").partition("(")
    return [before + one for one in rest.removesuffix(")").split("|")]


def service(program: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit(program).read_text(encoding="utf-8"))
    return parser["Service"]


@programs
def test_a_core_and_new_privileges_are_ruled_out(program: str) -> None:
    found = service(program)
    assert found["LimitCORE"] == "0"
    assert found["NoNewPrivileges"] == "yes"
    assert found["UMask"] == "0077"


@programs
def test_statuses_mean_the_same_on_both_sides(program: str) -> None:
    status = {"targetd": command.CONFIG_STATUS, "attachd": commands.CONFIG_STATUS}[program]
    assert service(program)["RestartPreventExitStatus"] == str(status)
    assert service(program)["Restart"] == "on-failure"


def test_attachd_is_not_root_and_its_folders_are_those_of_its_configuration() -> None:
    found, config = service("attachd"), Config()
    assert found["User"] == "attachd"
    assert found["CapabilityBoundingSet"] == ""
    assert str(config.state_directory) == f"/var/lib/{found['StateDirectory']}"
    assert config.socket is not None
    assert str(config.socket.parent) == f"/run/{found['RuntimeDirectory']}"
    users = (SYSTEMD / "attachd-sysusers.conf").read_text()
    assert f'\nu attachd - "Attachment manager" {config.state_directory}\n' in users


def test_the_other_managers_are_in_conflict() -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert f"\nConflicts={' '.join(lio_start.OTHER_MANAGERS)}\n" in text


def test_the_group_is_the_one_of_the_socket() -> None:
    assert f"\ng {runtime_directory.GROUP} -" in (SYSTEMD / "sysusers.conf").read_text()
    assert f"\nd /run/targetd 0750 root {runtime_directory.GROUP} -" in (
        (SYSTEMD / "tmpfiles.conf").read_text()
    )


@pytest.mark.parametrize(
    ("program", "users"), [("targetd", "sysusers.conf"), ("attachd", "attachd-sysusers.conf")]
)
def test_systemd_understands_its_files(program: str, users: str, tmp_path: Path) -> None:
    """The real unit, but for the program, which is not installed here."""
    copy = tmp_path / f"{program}.service"
    text = unit(program).read_text(encoding="utf-8")
    copy.write_text(text.replace(f"/usr/bin/{program}", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "etc").mkdir()
    argv = ["systemd-sysusers", f"--root={tmp_path}", str(SYSTEMD / users)]
    subprocess.run(argv, check=True, capture_output=True)
    assert f"{program}:" in (tmp_path / "etc" / "group").read_text()
