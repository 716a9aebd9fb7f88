"""The package of attachd beside that of targetd: its service, killed, upgraded, removed, purged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from lab.lab import Lab
from lab.node import Result, Spec
from lab.storage import ROOT
from targetd import __version__
from tests.conftest import LAB_FOLDER
from tests.lab.conftest import LATER, prepare_for_packages

pytestmark = pytest.mark.lab

SOCKET = "/run/attachd/attachd.sock"
LOOPBACK = "http://127.0.0.1:8776"
CONFIGURATION = "/etc/attachd/attachd.toml"
DROP_INS = "/etc/systemd/system/attachd.service.d"
WATCHDOG = "[Service]\nWatchdogSec=8s\n"
INSTALL_SECONDS_MAX = 300.0
SOON_SECONDS = 60.0
# Asks as any program can: what is to be asked comes over standard input, where a token is seen by
# nobody.
ASK = """\
import json, sys
from targetd_local import AttachdError, Unreachable
from targetd_local.transport import Address, Transport
url, token, method, path, body = json.load(sys.stdin)
try:
    answer = [200, Transport(Address(url), token=token).request(method, path, body)]
except AttachdError as error:
    answer = [error.code, str(error)]
except Unreachable as error:
    answer = [0, str(error)]
print(json.dumps(answer))
"""
CONNECTOR = {"initiator": "iqn.2026-01.org.example.lab:b", "host": "b", "multipath": False}
# Where something could be left.
PLACES = (
    "/etc/attachd",
    "/etc/systemd",
    "/lib/systemd/system",
    "/run/attachd",
    "/run/systemd",
    "/usr/bin",
    "/usr/lib/attachd",
    "/usr/lib/sysusers.d",
    "/usr/lib/tmpfiles.d",
    "/usr/share/doc/attachd",
    "/var/lib/attachd",
    "/var/lib/systemd",
)


class Manager:
    """A node that has both packages' files, targetd installed, and no attachd yet."""

    def __init__(self, lab: Lab, packages: Path, attachd_packages: Path) -> None:
        self.node = lab["storage"]
        self._folders = {"targetd": packages, "attachd": attachd_packages}
        self.token = ""
        prepare_for_packages(self.node)
        self.run(["lvm", "vgcreate", "storage", "/dev/ubda"])
        self.install("targetd", __version__)

    def run(self, argv: list[str], **options: Any) -> Result:
        return self.node.run(argv, **options)

    def dpkg(self, *arguments: str) -> str:
        """Returns what is said of it to who runs it."""
        done = self.run(["dpkg", *arguments], timeout_seconds=INSTALL_SECONDS_MAX, check=False)
        assert done.status == 0, done.stdout + done.stderr
        return done.stderr

    def install(self, program: str, version: str) -> str:
        (made,) = self._folders[program].glob(f"{program}_{version}_*.deb")
        shutil.copy(made, self.node.share / "package.deb")
        return self.dpkg("--install", "/media/package.deb")

    def attachd(self, *arguments: str) -> str:
        return self.run(["attachd", *arguments]).stdout.strip()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        url: str = f"unix:{SOCKET}",
        token: str | None = None,
        become: tuple[str, ...] = (),
    ) -> tuple[int, Any]:
        """The status, 0 where there is no answer, and the document or the message."""
        asked = [url, self.token if token is None else token, method, path, body]
        done = self.run(
            [*become, sys.executable, "-c", ASK],
            stdin=json.dumps(asked).encode(),
            environment={"PYTHONPATH": f"{ROOT}/drivers", "HOME": "/tmp"},
        )
        status, found = json.loads(done.stdout)
        return status, found

    def good(self, method: str, path: str, body: object = None) -> Any:
        status, found = self.ask(method, path, body)
        assert status == 200, found
        return found

    def property(self, name: str) -> str:
        shown = self.run(["systemctl", "show", f"--property={name}", "--value", "attachd"])
        return shown.stdout.strip()

    def main_pid(self) -> int:
        return int(self.property("MainPID"))

    def journal(self) -> str:
        self.run(["sh", "-c", "journalctl -u attachd --no-pager -o cat > /media/journal"])
        return (self.node.share / "journal").read_text(encoding="utf-8", errors="replace")

    def connections(self) -> set[tuple[str, str]]:
        """As targetd has them."""
        found = json.loads(self.run(["lunctl", "--json", "connection", "list"]).stdout)
        return {(one["volume_id"], one["attachment_id"]) for one in found["connections"]}


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture(scope="module")
def manager(packages: Future[Path], attachd_packages: Future[Path]) -> Iterator[Manager]:
    storage = Spec("storage", (4 << 30,), memory_mib=1536, systemd=True)
    with Lab(LAB_FOLDER, [storage]) as lab:
        yield Manager(lab, packages.result(), attachd_packages.result())


def test_installed_used_upgraded_removed_purged(manager: Manager) -> None:
    assert "does not run" not in manager.install("attachd", __version__)
    _is_served_without_root(manager)
    _commands_of_root_leave_nothing_of_roots(manager)
    attached = _attach(manager)
    _killed(manager, attached)
    _stopped(manager, attached)
    _reloaded(manager)
    _upgrade(manager, attached)
    _remove(manager, attached)
    manager.install("attachd", LATER)
    _serves(manager, attached)
    _purge(manager, attached)


def _is_served_without_root(manager: Manager) -> None:
    assert manager.property("User") == "attachd"
    assert manager.property("ActiveState") == "active"
    assert manager.run(["systemctl", "is-enabled", "attachd"]).stdout.strip() == "enabled"
    process = manager.node.read(f"/proc/{manager.main_pid()}/status").decode()
    told = dict(line.split(":", 1) for line in process.splitlines())
    user = int(manager.run(["id", "--user", "attachd"]).stdout)
    assert {int(one) for one in told["Uid"].split()} == {user}
    assert {int(told[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert told["NoNewPrivs"].strip() == "1"
    shown = [
        "stat",
        "--format=%a %U %G",
        SOCKET,
        "/run/attachd",
        "/var/lib/attachd",
        "/etc/attachd",
    ]
    assert manager.run(shown).stdout.splitlines() == [
        "660 attachd attachd",
        "750 attachd attachd",
        "700 attachd attachd",
        "750 root attachd",
    ]
    _who_gets_in(manager)


def _who_gets_in(manager: Manager) -> None:
    """The socket is for the group, loopback for all of the host, and both ask for a token."""
    as_games = ("setpriv", "--reuid=games", "--regid=games")
    assert manager.ask("GET", "volumes")[0] == 401
    assert manager.ask("GET", "volumes", become=(*as_games, "--groups=attachd"))[0] == 401
    status, said = manager.ask("GET", "volumes", become=(*as_games, "--clear-groups"))
    assert (status, "Permission denied" in said) == (0, True)
    assert manager.ask("GET", "volumes", url=LOOPBACK)[0] == 401


def _commands_of_root_leave_nothing_of_roots(manager: Manager) -> None:
    """Also while nothing serves; and they reach what the service reaches, and no more."""
    add = ["attachd", "host", "add", "here", "unix:/run/targetd/targetd.sock"]
    refused = manager.run(add, check=False)
    assert refused.status != 0, "attachd is nobody to targetd yet"
    manager.run(["usermod", "--append", "--groups", "targetd", "attachd"])
    manager.run(["systemctl", "stop", "attachd"])
    manager.run(add)
    manager.token = manager.attachd("token", "add", "--project", "demo")
    owners = manager.run(["find", "/var/lib/attachd", "-printf", "%u\n"]).stdout.split()
    assert set(owners) == {"attachd"}
    manager.run(["systemctl", "start", "attachd"])
    (host,) = json.loads(manager.attachd("host", "list", "--json"))
    assert (host["host"], host["answers"]) == ("here", "yes")


def _attach(manager: Manager) -> tuple[str, str]:
    """Returns the ids of a volume and its attachment."""
    volume = manager.good("POST", "volumes", {"volume": {"size": 1, "name": "first"}})["volume"]
    wait_for(
        lambda: manager.good("GET", f"volumes/{volume['id']}")["volume"]["status"] == "available"
    )
    asked = {
        "volume_uuid": volume["id"],
        "instance_uuid": str(uuid.uuid4()),
        "connector": CONNECTOR,
    }
    attachment = manager.good("POST", "attachments", {"attachment": asked})["attachment"]
    assert attachment["connection_info"]["auth_password"] not in ("", "***")
    manager.good("POST", f"attachments/{attachment['id']}/action", {"os-complete": {}})
    attached = volume["id"], attachment["id"]
    _serves(manager, attached)
    return attached


def _serves(manager: Manager, attached: tuple[str, str]) -> None:
    """What was recorded is there, and granted."""
    volume_id, attachment_id = attached
    assert manager.good("GET", f"volumes/{volume_id}")["volume"]["status"] == "in-use"
    found = manager.good("GET", f"attachments/{attachment_id}")["attachment"]
    assert found["status"] == "attached"
    assert found["connection_info"]["auth_password"] == "***"
    assert manager.connections() == {attached}


def _killed(manager: Manager, attached: tuple[str, str]) -> None:
    pid = manager.main_pid()
    manager.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "attachd"])
    _is_started_again(manager, pid)
    _serves(manager, attached)


def _is_started_again(manager: Manager, pid: int) -> None:
    wait_for(lambda: manager.main_pid() not in (0, pid))
    wait_for(lambda: manager.property("ActiveState") == "active")


def _stopped(manager: Manager, attached: tuple[str, str]) -> None:
    """A process that does nothing any more is replaced; a minute would be long for a test."""
    manager.node.write(f"{DROP_INS}/watchdog.conf", WATCHDOG)
    manager.run(["systemctl", "daemon-reload"])
    manager.run(["systemctl", "restart", "attachd"])
    pid = manager.main_pid()
    manager.run(["systemctl", "kill", "--signal=STOP", "--kill-whom=main", "attachd"])
    _is_started_again(manager, pid)
    assert "Watchdog timeout" in manager.journal()
    _serves(manager, attached)
    manager.run(["rm", "-r", DROP_INS])
    manager.run(["systemctl", "daemon-reload"])
    manager.run(["systemctl", "restart", "attachd"])


def _reloaded(manager: Manager) -> None:
    text, pid = manager.node.read(CONFIGURATION).decode(), manager.main_pid()
    reload = ["systemctl", "reload", "attachd"]
    manager.node.write(CONFIGURATION, f"threads = 0\n{text}", mode="644")
    assert manager.run(reload, check=False).status != 0
    assert f"{CONFIGURATION}:1: threads: must be between" in manager.journal()
    manager.node.write(CONFIGURATION, f'log_level = "debug"\n{text}', mode="644")
    manager.run(reload)
    wait_for(lambda: "were taken over" in manager.journal())
    assert manager.main_pid() == pid
    assert manager.property("StatusText").startswith("serving ")


def _upgrade(manager: Manager, attached: tuple[str, str]) -> None:
    pid, configured = manager.main_pid(), manager.node.read(CONFIGURATION)
    manager.install("attachd", LATER)
    shown = manager.run(["dpkg-query", "--show", "--showformat=${Version}", "attachd"])
    assert shown.stdout == LATER
    assert manager.main_pid() not in (0, pid), "the new one runs"
    assert manager.node.read(CONFIGURATION) == configured
    _serves(manager, attached)
    _configured_with_a_mistake(manager)
    _serves(manager, attached)


def _configured_with_a_mistake(manager: Manager) -> None:
    text = manager.node.read(CONFIGURATION).decode()
    manager.node.write(CONFIGURATION, f"threads = 0\n{text}", mode="644")
    done = manager.run(
        ["/var/lib/dpkg/info/attachd.postinst", "configure", LATER],
        # As dpkg runs it.
        environment={"DPKG_MAINTSCRIPT_PACKAGE": "attachd"},
    )
    assert "attachd is installed, but does not run yet" in done.stderr
    assert f"attachd: {CONFIGURATION}:1: threads: must be between" in done.stderr
    manager.node.write(CONFIGURATION, text, mode="644")
    manager.run(["systemctl", "start", "attachd"])


def _remove(manager: Manager, attached: tuple[str, str]) -> None:
    said = manager.dpkg("--remove", "attachd")
    assert "stay in /var/lib/attachd, the configuration in /etc/attachd" in said
    assert manager.main_pid() == 0
    for path in (CONFIGURATION, "/var/lib/attachd/attachd.sqlite", "/var/lib/attachd/key"):
        manager.run(["test", "-e", path])
    assert manager.connections() == {attached}, "who is attached stays so"


def _purge(manager: Manager, attached: tuple[str, str]) -> None:
    manager.dpkg("--purge", "attachd")
    search = ["find", *PLACES, "-maxdepth", "3", "-name", "*attachd*"]
    # Most of the places are not there, which find calls a failure.
    assert manager.run(search, check=False).stdout == ""
    for database in ("passwd", "group"):
        assert manager.run(["getent", database, "attachd"], check=False).status == 2
    assert "attachd" not in manager.run(["getent", "group", "targetd"]).stdout
    assert manager.connections() == {attached}
    assert manager.run(["systemctl", "is-active", "targetd"]).stdout.strip() == "active"


def test_installed_without_a_package(tmp_path: Path) -> None:
    """``make install-attachd``, which fetches Python packages: on this machine, below a folder."""

    def make(target: str) -> None:
        argv = ["make", "--no-print-directory", target, f"DESTDIR={tmp_path}"]
        subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    make("install-attachd")
    python = tmp_path / "opt" / "attachd" / "bin" / "python3"
    argv = [str(python), "-I", "-m", "attachd", "--version"]
    assert __version__ in subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    command = tmp_path / "usr" / "local" / "bin" / "attachd"
    assert command.readlink() == Path("/opt/attachd/bin/attachd")
    make("uninstall-attachd")
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if not path.is_dir()]
    assert left == [Path("etc/attachd/attachd.toml")]
