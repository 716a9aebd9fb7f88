"""Each exit status, with what it says and what it advises."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest
from targetd_driver import Endpoint

from targetd.errors import FailedPrecondition, TargetdError
from targetd.lunctl.exits import MEANINGS, OF_CODES, Exit
from targetd.lunctl.hints import OF_REASONS, hints_for
from tests.hosts import MEBIBYTE, Host, SimulatedBacking
from tests.lunctl import ROOT, Lunctl

ABSENT = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


@pytest.fixture
def host(simulated_backing: SimulatedBacking) -> Iterator[Host]:
    made = Host(simulated_backing)
    yield made
    simulated_backing.lvm.may_step.set()
    made.close()


@pytest.fixture
def lunctl(host: Host) -> Lunctl:
    return Lunctl(host.backing.endpoint)


@pytest.mark.parametrize(
    "arguments",
    [
        ["volume", "create"],
        ["volume", "create", "--size", "1GiB", "--from-volume", "a", "--from-snapshot", "b"],
        ["volume", "show"],
        ["nothing"],
        ["volume", "list", "--timeout", "0"],
    ],
)
def test_a_wrong_command_line(lunctl: Lunctl, arguments: list[str]) -> None:
    assert "Usage: lunctl" in lunctl.run(*arguments, status=2).stderr


def test_a_wrong_value(lunctl: Lunctl) -> None:
    error = lunctl.error("volume", "show", "nix", status=2)
    assert error["reason"] == "INVALID_ARGUMENT" and "must be a UUID" in error["message"]


def test_what_is_not_there(lunctl: Lunctl) -> None:
    for arguments in (
        ("volume", "show", ABSENT),
        ("snapshot", "show", ABSENT),
        ("export", "show", ABSENT),
        ("connection", "show", ABSENT, "x"),
        ("operation", "show", ABSENT),
        ("why", ABSENT),
        ("volume", "create", "--from-volume", ABSENT),
    ):
        assert lunctl.error(*arguments, status=3)["reason"] == "NOT_FOUND"
    assert "The pools are: thick, thin" in lunctl.run("pool", "show", "nix", status=3).stderr


def test_an_id_that_is_taken(lunctl: Lunctl, host: Host) -> None:
    again = ("volume", "create", host.create(), "--pool", "thick", "--size", "1GiB")
    assert lunctl.error(*again, status=4)["reason"] == "ALREADY_EXISTS"


def test_a_refusal_says_what_to_type(lunctl: Lunctl, host: Host) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    error = lunctl.error("volume", "delete", volume_id, "--yes", status=5)
    assert error["reason"] == "HAS_CONNECTIONS"
    assert f"lunctl connection list --volume {volume_id}" in error["hints"]
    connect = ("connection", "create", volume_id, "--initiator", "iqn.2026-01.org.example:b")
    text = lunctl.run(*connect, status=5).stderr
    assert f"  lunctl connection remove {volume_id} attachment-a\n" in text


def test_no_space(lunctl: Lunctl) -> None:
    create = ("volume", "create", "--pool", "thick", "--size", "1TiB")
    assert lunctl.error(*create, status=6)["hints"] == ["lunctl pool list"]


def test_a_socket_that_one_may_not_open(lunctl: Lunctl) -> None:
    # Root may open everything, and tests run as root: the kernel's answer stands in.
    refusal = PermissionError(13, "Permission denied")
    with patch("socket.socket.connect", side_effect=refusal):
        done = lunctl.run("host", "--endpoint", "unix:/nowhere/s", status=7)
    assert "usermod -aG targetd" in done.stderr


def test_nobody_listens(lunctl: Lunctl, tmp_path: Path) -> None:
    nowhere = lunctl.run("host", "--endpoint", f"unix:{tmp_path}/s", status=8).stderr
    assert "there is no such socket" in nowhere and "systemctl status targetd" in nowhere
    with closing(socket.socket(socket.AF_UNIX)) as left_behind:
        left_behind.bind(f"{tmp_path}/s")
    left = lunctl.run("host", "--endpoint", f"unix:{tmp_path}/s", status=8).stderr
    assert "nothing listens there" in left


def test_the_daemon_is_starting(tmp_path: Path) -> None:
    with (
        patch("targetd.server.serve.Server.serving"),
        closing(SimulatedBacking(tmp_path)) as backing,
    ):
        error = Lunctl(backing.endpoint).error("volume", "list", status=8)
    assert error["reason"] == "STARTING" and "journalctl -fu targetd" in error["hints"][0]


def test_a_late_answer_and_the_id_to_repeat_with(
    lunctl: Lunctl, simulated_backing: SimulatedBacking
) -> None:
    may_go_on, create = threading.Event(), simulated_backing.lvm.create
    with patch.object(
        simulated_backing.lvm, "create", lambda volume: may_go_on.wait() and create(volume)
    ):
        arguments = ("volume", "create", "--pool", "thin", "--size", "1GiB")
        error = lunctl.error(*arguments, "--timeout", "0.5", status=9)
        assert "the same command again" in error["hints"][0]
        volume_id = error["metadata"]["id"]
        assert volume_id in error["hints"][1]
        may_go_on.set()
        lunctl.run(*arguments[:2], volume_id, *arguments[2:])
    assert len(lunctl.json("volume", "list")["volumes"]) == 1


def test_tcp_without_its_files(host: Host) -> None:
    lunctl = Lunctl(Endpoint("127.0.0.1:1"))
    assert "TCP needs TLS" in lunctl.run("host", status=2).stderr
    assert "belong together" in lunctl.run("host", "--tls-ca", "/nowhere", status=2).stderr
    files = ("--tls-ca", "/nowhere", "--tls-certificate", "/nowhere", "--tls-key", "/nowhere")
    assert "/nowhere cannot be read" in lunctl.run("host", *files, status=2).stderr


def test_what_the_daemon_did_not_expect(
    lunctl: Lunctl, simulated_backing: SimulatedBacking
) -> None:
    lvm = simulated_backing.lvm
    with patch.object(lvm, "create", side_effect=RuntimeError("a secret")):
        create = ("volume", "create", "--pool", "thin", "--size", "1GiB")
        error = lunctl.error(*create, status=1)
    assert error["reason"] == "INTERNAL" and "journalctl -u targetd" in error["hints"][0]
    assert "a secret" not in str(error)


def test_work_that_failed(lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking) -> None:
    lvm = simulated_backing.lvm
    with patch.object(lvm, "wipe", side_effect=OSError("broken disk")):
        delete = ("volume", "delete", host.create("thick"), "--yes", "--wait")
        error = lunctl.run(*delete, status=1).stderr
    assert "failed and will be tried again" in error and "lunctl reconcile" in error
    assert "error: wipe" in lunctl.run("status").stdout
    assert "lunctl doctor" not in lunctl.run("status").stdout


def test_every_status_of_grpc_has_an_exit_and_every_exit_a_meaning() -> None:
    assert set(MEANINGS) == set(Exit)
    assert set(OF_CODES) <= {code.name for code in grpc.StatusCode}
    codes = {one.code.name for one in _errors(TargetdError)} - {"INTERNAL", "UNIMPLEMENTED"}
    assert codes <= set(OF_CODES)


def _errors(kind: type[TargetdError]) -> list[type[TargetdError]]:
    return [kind, *(one for inner in kind.__subclasses__() for one in _errors(inner))]


def test_every_hint_is_of_a_reason_that_the_daemon_gives() -> None:
    code = "".join(path.read_text() for path in (ROOT / "targetd").glob("**/*.py"))
    known = {one.reason for one in _errors(TargetdError)}
    for reason in OF_REASONS:
        assert f'"{reason}"' in code.replace(f'    "{reason}": (', "") or reason in known, reason


def test_a_hint_without_its_metadata_shows_what_belongs_there() -> None:
    assert hints_for("EXPORTED", FailedPrecondition.code.name, {}) == (
        "lunctl export remove VOLUME",
    )


def test_repeating_is_safe(lunctl: Lunctl) -> None:
    volume_id = str(uuid.uuid4())
    create = ("volume", "create", volume_id, "--pool", "thin", "--size", "16MiB")
    for arguments in (
        create,
        ("export", "create", volume_id),
        ("connection", "create", volume_id, "--initiator", "iqn.2026-01.org.example:b"),
        ("connection", "remove", volume_id, "--all"),
        ("export", "remove", volume_id),
        ("volume", "extend", volume_id, "--size", str(32 * MEBIBYTE) + "B"),
        ("volume", "delete", volume_id, "--yes"),
    ):
        assert lunctl.json(*arguments).keys() == lunctl.json(*arguments).keys()
