"""The Debian package, installed as the README says: used, upgraded, removed, purged."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lab.initiator import Initiator
from lab.lab import Lab
from lab.node import Spec
from lab.storage import CONFIGURATION_PATH, ROOT, StorageHost, spec
from targetd import __version__
from targetd.api.v1 import export_pb2
from tests.conftest import LAB_FOLDER, on_virtual_machines
from tests.hosts import DPKG_SECONDS_MAX, Host, InstalledBacking, properties_of
from tests.lab.conftest import LATER, prepare_for_packages
from tests.lab.live import live_io

pytestmark = pytest.mark.lab

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Between writes: an emulated processor has more to do.
PAUSE = 0.02
SOCKET = "/run/targetd/targetd.sock"
# What the reader of the README puts in for capitals.
HERE = {"DISK": "ubda", "USER": "games"}
# Where else something could be left; not all of /usr, of which a node would hold each
# folder that it has looked into open on this machine.
PLACES = (
    "/etc/systemd",
    "/etc/targetd",
    "/lib/systemd/system",
    "/run/systemd",
    "/run/targetd",
    "/usr/lib/sysusers.d",
    "/usr/lib/targetd",
    "/var/lib/systemd",
    "/var/lib/targetd",
)
STILL_THERE = """\
import os, sys
for line in sys.stdin:
    path = line.rstrip("\\n")
    if os.path.lexists(path) and not os.path.isdir(path):
        print(path)
"""


class PackagedBacking(InstalledBacking):
    """A node that has the package's file, and no targetd yet; one that attaches."""

    storage: StorageHost

    def __init__(self, lab: Lab, packages: Path) -> None:
        initiators = {"a": Initiator(lab["a"])}
        super().__init__(StorageHost(lab["storage"]), initiators, "/media/later.deb")
        self.initiators["a"].start()
        self.run = self.storage.node.run
        share = self.storage.node.share
        (share / "build").mkdir()
        for version, name in ((__version__, "build/targetd_1.deb"), (LATER, "later.deb")):
            (made,) = packages.glob(f"targetd_{version}_*.deb")
            shutil.copy(made, share / name)
        prepare_for_packages(self.storage.node)
        self.run(["mkfs.ext4", "-q", "/dev/ubdb"])
        self.storage.pack_surroundings()
        self.storage.node.unpack()
        # There was no targetd before.
        self.run(["rm", "-r", "/etc/targetd"])
        self.run(["systemctl", "daemon-reload"])
        self.run(["systemctl", "start", "lab-disks"])


@pytest.fixture(scope="module")
def node_with_package(packages: Future[Path]) -> Iterator[PackagedBacking]:
    """Installed as the README says, and open to the tests."""
    with Lab(LAB_FOLDER, [replace(spec(), memory_mib=1024), Spec("a")]) as lab:
        backing = PackagedBacking(lab, packages.result())
        _install_as_the_readme_says(backing)
        _let_others_in(backing)
        yield backing
        backing.close()


@pytest.fixture
def installed(request: pytest.FixtureRequest) -> InstalledBacking:
    virtual = on_virtual_machines(request.config)
    backing: InstalledBacking = request.getfixturevalue(
        "lab_backing" if virtual else "node_with_package"
    )
    return backing


def _commands() -> list[str]:
    section = README.partition("## Install it for real\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (.+)$", section, re.MULTILINE)
    for name, value in HERE.items():
        lines = [line.replace(name, value) for line in lines]
    return lines


def _health_as(backing: PackagedBacking, groups: str) -> int:
    done = backing.run(
        [
            *("setpriv", "--reuid=games", "--regid=games", groups),
            *(sys.executable, "-m", "lab.health", SOCKET),
        ],
        environment={"PYTHONPATH": f"{ROOT}:{ROOT}/drivers", "HOME": "/tmp"},
        check=False,
    )
    return done.status


def _install_as_the_readme_says(backing: PackagedBacking) -> None:
    first, *others = _commands()
    assert first == "make deb", "which is what has been done"
    for line in others:
        done = backing.run(
            ["sh", "-c", line], cwd="/media", timeout_seconds=DPKG_SECONDS_MAX, check=False
        )
        assert done.status == 0, f"{line}: {done.stdout}{done.stderr}"
    show = ["stat", "--format=%a %U %G", SOCKET, "/run/targetd", "/var/lib/targetd"]
    assert backing.run(show).stdout.splitlines() == [
        "660 root targetd",
        "750 root targetd",
        "700 root root",
    ]
    for command in ("targetd", "lunctl"):
        assert __version__ in backing.run([command, "--version"]).stdout
    assert _health_as(backing, "--init-groups") == 0
    assert _health_as(backing, "--clear-groups") != 0


def _let_others_in(backing: PackagedBacking) -> None:
    """As docs/install.md has it: certificates, and the address to listen on."""
    backing.run(["lvm", "lvcreate", "-y", "--type", "thin-pool", "-n", "thin", "-L1g", "storage"])
    backing.storage.node.unpack()
    backing.storage.node.write(CONFIGURATION_PATH, backing.storage.configuration)
    assert backing.run(["targetd", "--check-config"]).stderr == ""
    backing.run(["systemctl", "restart", "targetd"])
    assert backing.storage.health() == "SERVING"


def test_configured_without_a_volume_group(node_with_package: PackagedBacking) -> None:
    backing = node_with_package
    backing.run(["lvm", "vgrename", "storage", "other"])
    done = backing.run(
        ["/var/lib/dpkg/info/targetd.postinst", "configure", LATER],
        # As dpkg runs it.
        environment={"DPKG_MAINTSCRIPT_PACKAGE": "targetd"},
    )
    assert "targetd is installed, but does not run yet" in done.stderr
    assert "targetd: volume group storage is not there" in done.stderr
    assert backing.run(["systemctl", "is-enabled", "targetd"]).stdout.strip() == "enabled"
    backing.run(["lvm", "vgrename", "other", "storage"])
    backing.run(["systemctl", "start", "targetd"])
    assert backing.storage.health() == "SERVING"


@pytest.fixture
def host(installed: InstalledBacking) -> Iterator[Host]:
    given = Host(installed)
    yield given
    given.close()


@contextmanager
def _written_to(backing: InstalledBacking, host: Host) -> Iterator[None]:
    """Inside the block a host that attaches writes all the while, and nothing fails."""
    initiator = backing.initiators["a"]
    properties = properties_of(host.attach(host.create("thick")))
    disk = initiator.log_in(properties)
    with live_io(initiator, disk, PAUSE):
        yield
    initiator.log_out(properties)


@pytest.mark.virtual
@pytest.mark.stays
def test_upgraded_under_io(installed: InstalledBacking, host: Host) -> None:
    storage = installed.storage
    with _written_to(installed, host):
        pid = storage.main_pid()
        installed.dpkg("--install", installed.later)
        assert installed.installed_version() == LATER
        assert storage.main_pid() not in (0, pid), "the new one runs"
        assert storage.health() == "SERVING"
        assert storage.node.read(CONFIGURATION_PATH).decode() == storage.configuration
        request = export_pb2.ListConnectionsRequest()
        (connection,) = host.exports.ListConnections(request).connections
        assert connection.authorized
    host.remove_everything()


def _remove(backing: PackagedBacking) -> None:
    said = backing.dpkg("--remove", "targetd")
    assert "goes on serving 1 targets" in said
    assert "stay in /var/lib/targetd, the configuration in /etc/targetd" in said
    assert backing.storage.main_pid() == 0
    backing.run(["test", "-e", CONFIGURATION_PATH, "-a", "-e", "/var/lib/targetd/host.key"])


def _purge(backing: PackagedBacking, files: str) -> None:
    backing.dpkg("--purge", "targetd")
    there = backing.run([sys.executable, "-c", STILL_THERE], stdin=files.encode()).stdout
    assert there == "", "no file of the package"
    search = ["find", *PLACES, "-maxdepth", "3", "-name", "*targetd*"]
    # Most of them are not there, which find calls a failure.
    found = backing.run(search, check=False).stdout.split()
    assert found == ["/var/lib/targetd"], "the place of a file system of its own"
    assert backing.run(["find", "/var/lib/targetd", "-mindepth", "1"]).stdout == ""
    assert backing.run(["getent", "group", "targetd"], check=False).status == 2
    volumes = backing.run(["lvm", "lvs", "--noheadings", "-o", "lv_name", "storage"]).stdout
    assert "volume-" in volumes, "what is in LVM stays"


def test_removed_under_io_and_purged(node_with_package: PackagedBacking, host: Host) -> None:
    files = node_with_package.run(["dpkg", "--listfiles", "targetd"]).stdout
    with _written_to(node_with_package, host):
        _remove(node_with_package)
    _purge(node_with_package, files)


def test_installed_without_a_package(tmp_path: Path) -> None:
    """``make install``, which fetches Python packages: on this machine, below a folder."""

    def make(target: str) -> None:
        argv = ["make", "--no-print-directory", target, f"DESTDIR={tmp_path}"]
        subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    make("install")
    python = tmp_path / "opt" / "targetd" / "bin" / "python3"
    for module in ("targetd", "targetd.lunctl"):
        argv = [str(python), "-I", "-m", module, "--version"]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        assert __version__ in said
    command = tmp_path / "usr" / "local" / "bin" / "lunctl"
    assert command.readlink() == Path("/opt/targetd/bin/lunctl")
    make("uninstall")
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == [Path("etc/targetd/targetd.toml")]
