"""The commands for storage hosts and tokens, as they are typed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

from attachd.commands import become_owner, root
from targetd import __version__
from tests.attachd.hosts import storage
from tests.hosts import SimulatedBacking


class Program:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "attachd.toml"
        self.path.write_text(f'state_directory = "{folder}"\nhost_timeout_seconds = 5\n')

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(root, ["--config", str(self.path), *arguments])

    def says(self, *arguments: str) -> str:
        answer = self(*arguments)
        assert answer.exit_code == 0, answer.output
        return answer.output


@pytest.fixture
def attachd(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture(scope="module")
def backing() -> Iterator[SimulatedBacking]:
    with storage("one") as backings:
        yield backings["one"]


def test_a_storage_host_is_added_drained_and_removed(
    attachd: Program, backing: SimulatedBacking
) -> None:
    assert "no storage hosts" in attachd.says("host", "list")
    attachd.says("host", "add", "one", backing.endpoint.address)
    (found,) = json.loads(attachd.says("host", "list", "--json"))
    assert found == {
        "host": "one",
        "endpoint": backing.endpoint.address,
        "state": "up",
        "volumes": "0",
        "answers": "yes",
        "reason": "",
    }
    attachd.says("host", "drain", "one")
    assert "draining" in attachd.says("host", "list")
    attachd.says("host", "resume", "one")
    assert "draining" not in attachd.says("host", "list")
    attachd.says("host", "remove", "one")
    assert json.loads(attachd.says("host", "list", "--json")) == []


def test_a_lost_host_is_forgotten_when_one_says_yes(attachd: Program) -> None:
    with storage("two") as backings:
        attachd.says("host", "add", "two", backings["two"].endpoint.address)
        answer = attachd("host", "remove", "two", "--lost", "--yes")
        assert answer.exit_code == 5 and "two answers" in answer.stderr
    asked = attachd("host", "remove", "two", "--lost")
    assert asked.exit_code == 1 and "Forget storage host two with all volumes" in asked.stderr
    assert len(json.loads(attachd.says("host", "list", "--json"))) == 1
    said = attachd.says("host", "remove", "two", "--lost", "--yes")
    assert "0 attachments, 0 snapshots, 0 volumes forgotten" in said
    assert json.loads(attachd.says("host", "list", "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (("host", "drain", "none"), 3, "none"),
        (("host", "resume", "none"), 3, "none"),
        (("host", "remove", "none"), 3, "none"),
        (("host", "remove", "none", "--lost", "--yes"), 3, "none"),
        (("host", "add", "a b", "unix:/x"), 2, "a b"),
        (("host", "add", "a", "unix:/nowhere"), 8, "/nowhere"),
        (("host", "add", "a", "192.0.2.1:1"), 8, "[host_tls]"),
        (("token", "remove", "none"), 3, "none"),
        (("token", "add", "--project", "a b"), 2, "a b"),
        (("explain", "none"), 3, "none"),
    ],
)
def test_what_cannot_be_is_one_line_and_a_status(
    attachd: Program, arguments: tuple[str, ...], status: int, named: str
) -> None:
    answer = attachd(*arguments)
    assert answer.exit_code == status, answer.output
    assert answer.stderr.startswith("attachd: ") and named in answer.stderr
    assert answer.stderr.count("\n") == 1 and not answer.stdout


def test_a_token_is_shown_once(attachd: Program, tmp_path: Path) -> None:
    answer = attachd("token", "add", "--project", "p", "--admin", "--name", "n")
    secret = answer.stdout.strip()
    assert len(secret) > 40 and "not shown again" in answer.stderr
    (found,) = json.loads(attachd.says("token", "list", "--json"))
    assert (found["name"], found["project"], found["admin"]) == ("n", "p", "yes")
    assert secret not in attachd.says("token", "list")
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and secret in path.read_text("latin-1")
    ]
    again = attachd("token", "add", "--project", "p", "--name", "n")
    assert again.exit_code == 5 and "attachd token remove n" in again.stderr
    attachd.says("token", "remove", "n")
    assert json.loads(attachd.says("token", "list", "--json")) == []


def test_a_volume_is_explained(attachd: Program, backing: SimulatedBacking) -> None:
    from attachd import config, site
    from attachd.model import Caller, NewVolume

    attachd.says("host", "add", "one", backing.endpoint.address)
    with site.opened(config.load(attachd.path)) as found:
        volume = found.services.volumes.create(Caller("p"), NewVolume(1, "data"))
    said = attachd.says("explain", volume.id)
    assert "data" in said and "of project p" in said and "available" in said
    assert attachd("explain", str(uuid.uuid4())).exit_code == 3


def test_the_version_and_the_help(attachd: Program) -> None:
    assert __version__ in attachd.says("--version")
    said = attachd.says("--help")
    for command in ("serve", "host", "token", "explain", "--check-config"):
        assert command in said
    # The first lines of all commands fit.
    assert "..." not in said.partition("Commands:")[2]


def test_root_works_as_the_owner_of_the_records(tmp_path: Path) -> None:
    done: list[tuple[str, object]] = []

    def note(name: str) -> object:
        return lambda *what: done.append((name, what))

    os.chown(tmp_path, 4242, 4343)
    with patch.multiple(
        os,
        geteuid=lambda: 0,
        setgroups=note("setgroups"),
        initgroups=note("initgroups"),
        setgid=note("setgid"),
        setuid=note("setuid"),
    ):
        become_owner(tmp_path)
    # The user last: after that nothing of it is allowed.
    assert done[-1] == ("setuid", (4242,))
    assert ("setgid", (4343,)) in done
    with patch.object(os, "setuid", note("setuid")), patch.object(os, "geteuid", lambda: 1):
        become_owner(tmp_path)
    assert len([one for one in done if one[0] == "setuid"]) == 1
