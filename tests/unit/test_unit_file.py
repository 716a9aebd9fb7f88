"""The unit: how exposed it leaves the daemon, and that what it names is there."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from targetd import __main__ as command
from targetd import runtime_directory
from targetd.engines import lio_start

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "targetd.service"
EXPOSURE_MAX = 3.0


@pytest.fixture(scope="module")
def findings() -> str:
    return subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_exposure_is_low(findings: str) -> None:
    (found,) = re.findall(r"Overall exposure level for targetd\.service: ([\d.]+)", findings)
    assert float(found) <= EXPOSURE_MAX


def test_every_exposure_has_its_reason(findings: str) -> None:
    """The comment of the unit names all that systemd-analyze marks."""
    text = UNIT.read_text(encoding="utf-8")
    comment = text[text.index("# Hardening") : text.index("NoNewPrivileges=")]
    for setting in re.findall(r"^✗ (\S+)", findings, re.MULTILINE):
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


@pytest.fixture
def service() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser["Service"]


def test_a_core_and_new_privileges_are_ruled_out(service: configparser.SectionProxy) -> None:
    assert service["LimitCORE"] == "0"
    assert service["NoNewPrivileges"] == "yes"
    assert service["UMask"] == "0077"


def test_statuses_mean_the_same_on_both_sides(service: configparser.SectionProxy) -> None:
    assert service["RestartPreventExitStatus"] == str(command.CONFIG_STATUS)
    assert service["Restart"] == "on-failure"


def test_the_other_managers_are_in_conflict() -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert f"\nConflicts={' '.join(lio_start.OTHER_MANAGERS)}\n" in text


def test_the_group_is_the_one_of_the_socket() -> None:
    assert f"\ng {runtime_directory.GROUP} -" in (SYSTEMD / "sysusers.conf").read_text()
    assert f"\nd /run/targetd 0750 root {runtime_directory.GROUP} -" in (
        (SYSTEMD / "tmpfiles.conf").read_text()
    )


def test_systemd_understands_its_files(tmp_path: Path) -> None:
    """The real unit, but for the program, which is not installed here."""
    unit = tmp_path / "targetd.service"
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/usr/bin/targetd", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "etc").mkdir()
    users = ["systemd-sysusers", f"--root={tmp_path}", str(SYSTEMD / "sysusers.conf")]
    subprocess.run(users, check=True, capture_output=True)
    assert f"{runtime_directory.GROUP}:" in (tmp_path / "etc" / "group").read_text()
