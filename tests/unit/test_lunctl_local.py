"""local-attach, local-detach and get-connector as people type them, on a host that is a folder."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import click
import pytest
import targetd_local
from click.shell_completion import CompletionItem
from targetd_driver import Endpoint
from targetd_local import Attachd, AttachdError, Unreachable

from targetd.lunctl import attachd as module
from targetd.lunctl.cli import root
from tests.local_host import HOST, INITIATOR, PORTALS, SECRET, FolderHost
from tests.lunctl import Lunctl

VOLUME = str(uuid.uuid4())
TOKEN = "t0ken.of-a-project"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHost:
    host = FolderHost(tmp_path)
    monkeypatch.setattr(targetd_local, "LocalVolumes", host.local_volumes)
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    return host


@pytest.fixture
def lunctl(host: FolderHost) -> Lunctl:
    return Lunctl(Endpoint())


@pytest.fixture
def given() -> Iterator[list[dict[str, object]]]:
    """What each Attachd was made with."""
    found: list[dict[str, object]] = []

    def made(url: str, **options: object) -> Attachd:
        found.append({"url": url, **options})
        return Attachd(url)

    with patch.object(targetd_local, "Attachd", made):
        yield found


def test_a_volume_comes_and_goes(lunctl: Lunctl, host: FolderHost) -> None:
    shown = lunctl.run("local-attach", VOLUME).stdout
    assert shown.startswith("Device:") and "/dev/sda" in shown and PORTALS[0] in shown
    assert SECRET not in shown
    document = lunctl.json("local-attach", VOLUME)
    assert document["device"] == "/dev/sda" and document["volume_id"] == VOLUME
    assert document["paths"] == [{"device": "/dev/sda", "portal": PORTALS[0]}]
    assert document["attachment_id"] in host.attachd.all and document["mode"] == "rw"
    assert "is detached" in lunctl.run("local-detach", VOLUME).stdout
    assert host.left() == []
    assert lunctl.json("local-detach", VOLUME) == {
        "volume_id": VOLUME,
        "attachment_ids": [],
        "existed": False,
    }


def test_a_missing_path_is_told_beside_the_answer(lunctl: Lunctl, host: FolderHost) -> None:
    host.programs.refuse = f"{PORTALS[0]} --login"
    done = lunctl.run("local-attach", VOLUME, "--multipath", "--mode", "ro", "--json")
    assert "a path is missing" in done.stderr and PORTALS[0] in done.stderr
    document = json.loads(done.stdout)
    assert [path["portal"] for path in document["paths"]] == [PORTALS[1]]
    assert PORTALS[0] in document["missing"][0] and document["mode"] == "ro"


def test_the_connector(lunctl: Lunctl) -> None:
    document = lunctl.json("get-connector", "--multipath")
    assert document["initiator"] == INITIATOR and document["host"] == HOST
    assert document["multipath"] is True and document["do_local_attach"] is True
    assert f"initiator:         {INITIATOR}" in lunctl.run("get-connector").stdout


def test_a_disk_in_use(lunctl: Lunctl, host: FolderHost) -> None:
    lunctl.run("local-attach", VOLUME)
    table = host.kernel.root / "proc/self/mountinfo"
    table.write_text("25 1 8:16 / /srv rw - ext4 /dev/sda rw\n")
    error = lunctl.error("local-detach", VOLUME, status=5)
    assert error["reason"] == "IN_USE" and "/dev/sda is mounted at /srv" in error["message"]
    assert "Unmount it" in error["hints"][0]


@pytest.mark.parametrize(
    ("error", "status", "reason", "hint"),
    [
        (AttachdError("not your project", 403), 7, "FORBIDDEN", "token"),
        (AttachdError("no such volume", 404), 3, "NOT_FOUND", ""),
        (AttachdError("in use elsewhere", 409), 5, "CONFLICT", ""),
        (AttachdError("the storage host is down", 503), 8, "SERVICE_UNAVAILABLE", ""),
        (AttachdError("outcome unknown", 504), 9, "GATEWAY_TIMEOUT", ""),
        (AttachdError("what is that", 599), 1, "ATTACHD_ERROR", ""),
        (Unreachable("connection refused", sent=False), 8, "UNREACHABLE", "--url"),
    ],
)
def test_what_attachd_refuses(
    lunctl: Lunctl, host: FolderHost, error: Exception, status: int, reason: str, hint: str
) -> None:
    host.attachd.instead["create"] = error
    found = lunctl.error("local-attach", VOLUME, status=status)
    assert found["message"] == str(error)
    assert found["reason"] == reason
    assert hint in " ".join(found["hints"])
    assert host.left() == []


def test_what_is_left_and_how_to_remove_it(lunctl: Lunctl, host: FolderHost) -> None:
    host.attachd.instead["complete"] = AttachdError("not now", 409)
    host.programs.refuse = "--logout"
    shown = lunctl.run("local-attach", VOLUME, status=5).stderr
    assert "Not undone: disk: " in shown and "lunctl local-detach VOLUME" in shown


def test_a_file_that_cannot_be_written(lunctl: Lunctl, host: FolderHost) -> None:
    refused = PermissionError(13, "Permission denied", "/run/targetd-local")
    with patch.object(targetd_local.local, "locked", side_effect=refused):
        shown = lunctl.run("local-attach", VOLUME, status=1).stderr
    assert shown == "lunctl: /run/targetd-local: Permission denied\n"


def test_no_volume_of_that_name(lunctl: Lunctl) -> None:
    assert "is a UUID" in lunctl.run("local-attach", "data", status=2).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_nothing(
    lunctl: Lunctl, host: FolderHost, number: signal.Signals
) -> None:
    host.programs.watch = lambda line: os.kill(os.getpid(), number) if "login" in line else None
    before = signal.getsignal(number)
    shown = lunctl.run("local-attach", VOLUME, status=130).stderr
    assert "undoing what was done" in shown and "Nothing is left" in shown
    assert host.left() == []
    assert signal.getsignal(number) == before


def test_the_token_is_no_argument(
    lunctl: Lunctl,
    given: list[dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    lunctl.run("local-detach", VOLUME, "--token-file", str(file), "--project", "p")
    lunctl.run("local-detach", VOLUME, "--token-file", "-", terminal_input=f"{TOKEN}\n")
    monkeypatch.setenv("LUNCTL_TOKEN_FILE", str(file))
    lunctl.run("local-detach", VOLUME)
    monkeypatch.delenv("LUNCTL_TOKEN_FILE")
    monkeypatch.setenv("LUNCTL_TOKEN", TOKEN)
    lunctl.run("local-detach", VOLUME, "--url", "https://h:1", "--tls-ca", str(file))
    assert [one["token"] for one in given] == [TOKEN] * 4
    assert given[0]["project"] == "p" and given[0]["url"] == module.DEFAULT_URL
    assert given[3]["url"] == "https://h:1" and given[3]["ca"] == file


@pytest.mark.parametrize("content", [b"", b"two words\nof two lines", b"\xff\xfe"])
def test_a_file_that_holds_no_token(lunctl: Lunctl, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    for name in (file, tmp_path / "none"):
        shown = lunctl.run("local-detach", VOLUME, "--token-file", str(name), status=2).stderr
        assert str(name) in shown and "two words" not in shown


def test_a_url_that_is_none(lunctl: Lunctl) -> None:
    shown = lunctl.run("local-detach", VOLUME, "--url", "host:8776", status=2).stderr
    assert "https://HOST:8776" in shown


def _completed(*words: str) -> list[str]:
    context = root.make_context("lunctl", list(words), resilient_parsing=True)
    command = root.get_command(context, words[0])
    assert command is not None
    inner = command.make_context(words[0], list(words[1:]), context, resilient_parsing=True)
    argument = next(one for one in command.params if isinstance(one, click.Argument))
    items: list[CompletionItem[str]] = argument.shell_complete(inner, VOLUME[:4])
    return [item.value for item in items]


def test_volumes_complete(host: FolderHost, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [(str(uuid.uuid4()), "available") for _ in range(3)]
    with patch.object(Attachd, "volumes", lambda self: [*others, (VOLUME, "available")]):
        assert VOLUME in _completed("local-attach")
        assert _completed("local-attach", "--token-file", "-") == []
    with patch.object(Attachd, "volumes", side_effect=Unreachable("no", sent=False)):
        assert _completed("local-attach") == []
    host.volumes.attach(VOLUME)
    with patch("targetd_local.kernel.Kernel", lambda: host.kernel):
        assert _completed("local-detach") == [VOLUME]
