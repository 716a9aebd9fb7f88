"""lunctl setup, below a folder of the test's."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from targetd_driver import Endpoint

from targetd.lunctl import setup
from tests.lunctl import Lunctl


@pytest.fixture
def lunctl() -> Lunctl:
    return Lunctl(Endpoint("unix:/nowhere"))


def test_setup_and_its_removal(lunctl: Lunctl, tmp_path: Path) -> None:
    root = ("--root", str(tmp_path))
    done = lunctl.run("setup", *root, "--bin", "/opt/x/bin").stdout
    unit = tmp_path / "etc/systemd/system/targetd.service"
    assert f"written: {unit}\n" in done and "systemctl enable --now targetd" in done
    assert "ExecStart=/opt/x/bin/targetd" in unit.read_text()
    configuration = tmp_path / "etc/targetd/targetd.toml"
    configuration.write_text("# mine\n")
    again = lunctl.json("setup", *root)["written"]
    assert str(unit) in again and str(configuration) not in again
    left = lunctl.json("setup", *root, "--remove")["left"]
    assert left == [str(tmp_path / "etc/targetd")] and not unit.exists()
    assert configuration.read_text() == "# mine\n"


def test_setup_without_permission(lunctl: Lunctl, tmp_path: Path) -> None:
    refusal = PermissionError(13, "Permission denied", "/etc/systemd")
    with patch.object(setup, "install", side_effect=refusal):
        refused = lunctl.run("setup", "--root", str(tmp_path), status=7)
    assert "/etc/systemd cannot be written\n  Run it as root." in refused.stderr
    (tmp_path / "etc").write_text("no folder")
    assert "lunctl: " in lunctl.run("setup", "--root", str(tmp_path), status=1).stderr
