"""The documents say what is true: commands and files that they name are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from targetd import config
from targetd.model import PoolConfig

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(path: Path) -> None:
    for line in re.findall(r"^    make ([a-z -]+?)(?:  .*)?$", path.read_text(), re.MULTILINE):
        subprocess.run(["make", "--dry-run", *line.split()], check=True, cwd=ROOT)


def test_lab_commands_are_understood() -> None:
    for arguments in (["--help"], ["run", "--help"], ["check", "--help"]):
        subprocess.run(
            [sys.executable, "-m", "lab", *arguments], check=True, capture_output=True, cwd=ROOT
        )


def test_the_example_configuration_loads(tmp_path: Path) -> None:
    example = ROOT / "systemd" / "targetd.toml"
    found = config.load(example)
    assert found == config.Config(pools=(PoolConfig("thick", "storage"),))
    # With every comment that shows a key taken as that key, it must still load.
    text = re.sub(r"^#(?=[a-z_]+ = |\[)", "", example.read_text(encoding="utf-8"), flags=re.M)
    whole = tmp_path / "whole.toml"
    whole.write_text(text, encoding="utf-8")
    assert len(config.load(whole).pools) == 2


def test_the_files_that_the_readme_installs_are_there() -> None:
    for name in re.findall(r"(?<=644 )systemd/[a-z.-]+", (ROOT / "README.md").read_text()):
        assert (ROOT / name).is_file(), name
