"""What is put on a host, and what is left of it; which packages the product needs to run."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from targetd.install import ATTACHD, TARGETD, install, uninstall

ROOT = Path(__file__).resolve().parents[2]
UNIT = "etc/systemd/system/targetd.service"


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_is_written_is_removed_again_and_data_left(tmp_path: Path) -> None:
    written = install(tmp_path, Path("/opt/targetd/bin"))
    assert {str(path.relative_to(tmp_path)) for path in written} == files(tmp_path)
    assert files(tmp_path) == {
        UNIT,
        "etc/sysusers.d/targetd.conf",
        "etc/tmpfiles.d/targetd.conf",
        "etc/modules-load.d/targetd.conf",
        "etc/targetd/targetd.toml",
    }
    state = tmp_path / "var" / "lib" / "targetd"
    state.mkdir(parents=True)
    assert uninstall(tmp_path) == [tmp_path / "etc" / "targetd", state]
    assert files(tmp_path) == {"etc/targetd/targetd.toml"}
    assert uninstall(tmp_path) == [tmp_path / "etc" / "targetd", state], "once more is no error"


def test_the_unit_names_the_command_that_was_installed(tmp_path: Path) -> None:
    install(tmp_path, Path("/opt/targetd/bin"))
    text = (tmp_path / UNIT).read_text()
    assert "\nExecStart=/opt/targetd/bin/targetd\n" in text
    assert "\nExecReload=/opt/targetd/bin/targetd --check-config\n" in text
    assert "/usr/bin" not in text
    install(tmp_path, Path("/usr/bin"))
    assert (tmp_path / UNIT).read_text() == (ROOT / "systemd" / "targetd.service").read_text()


def test_a_configuration_is_never_overwritten(tmp_path: Path) -> None:
    install(tmp_path, Path("/usr/bin"))
    configuration = tmp_path / "etc" / "targetd" / "targetd.toml"
    configuration.write_text("# mine")
    assert configuration not in install(tmp_path, Path("/usr/bin"))
    assert configuration.read_text() == "# mine"


def test_a_distribution_has_other_places(tmp_path: Path) -> None:
    install(tmp_path, Path("/usr/bin"), vendor=True)
    assert files(tmp_path) == {
        "lib/systemd/system/targetd.service",
        "usr/lib/sysusers.d/targetd.conf",
        "usr/lib/tmpfiles.d/targetd.conf",
        "usr/lib/modules-load.d/targetd.conf",
        "etc/targetd/targetd.toml",
    }


def test_attachd_has_files_of_its_own(tmp_path: Path) -> None:
    install(tmp_path, Path("/usr/bin"))
    ours = files(tmp_path)
    written = install(tmp_path, Path("/opt/attachd/bin"), program=ATTACHD)
    assert files(tmp_path) - ours == {str(path.relative_to(tmp_path)) for path in written}
    assert files(tmp_path) - ours == {
        "etc/systemd/system/attachd.service",
        "etc/sysusers.d/attachd.conf",
        "etc/tmpfiles.d/attachd.conf",
        "etc/attachd/attachd.toml",
    }
    unit = (tmp_path / "etc" / "systemd" / "system" / "attachd.service").read_text()
    assert "\nExecStart=/opt/attachd/bin/attachd\n" in unit
    assert "/usr/bin" not in unit
    assert uninstall(tmp_path, ATTACHD) == [tmp_path / "etc" / "attachd"]
    assert files(tmp_path) == {*ours, "etc/attachd/attachd.toml"}


def test_every_file_of_systemd_is_installed(tmp_path: Path) -> None:
    written = [
        path
        for program in (TARGETD, ATTACHD)
        for path in install(tmp_path, Path("/usr/bin"), program=program)
    ]
    there = [path for path in (ROOT / "systemd").iterdir() if path.is_file()]
    assert len(written) == len(there)


def test_every_package_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    setuptools = project["tool"]["setuptools"]
    there = {"targetd.systemd"}
    for source in (ROOT, ROOT / "drivers"):
        for path in source.glob("*/**/*.py"):
            folder = path.parent.relative_to(source)
            if folder.parts[0] in {"targetd", "attachd"} or source.name == "drivers":
                there.add(".".join(folder.parts))
    assert set(setuptools["packages"]) == there


def _locked(*names: str) -> dict[str, str]:
    """The names of the packages, each with its lines."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "package" / "locked.py"), *names],
        capture_output=True,
        text=True,
        check=True,
    )
    blocks = [block for block in done.stdout.split("\n") if block and not block.startswith(" ")]
    return {block.partition("==")[0]: block for block in blocks}


def test_what_runs_needs_its_dependencies_and_no_tools() -> None:
    found = set(_locked())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for one in project["dependencies"]:
        assert one.partition(">")[0] in found
    # Needed by cryptography, grpcio and pyudev's own dependencies.
    assert {"cffi", "pycparser", "typing-extensions"} <= found
    for one in project["optional-dependencies"]["dev"]:
        assert one.partition(">")[0] not in found
    assert not {"setuptools", "pluggy"} & found


def test_attachd_needs_more_and_no_tools() -> None:
    found = set(_locked("--extra=attachd"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for one in extras["attachd"]:
        assert one.partition(">")[0].partition("[")[0] in found
    assert {"psycopg-binary", "mako", "h11"} <= found, "what these need"
    assert set(_locked()) < found
    for one in extras["dev"]:
        assert one.partition(">")[0] not in found


def test_a_package_of_the_lock_can_be_asked_for() -> None:
    assert set(_locked("setuptools")) == {"setuptools"}
    with pytest.raises(subprocess.CalledProcessError):
        _locked("nothing-of-that-name")
