"""The field's own clients, as they come from their registry, speak with attachd."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attachd.config import IdentityKind
from attachd.model import MASK, Caller
from tests.attachd.served import INITIATORS, NOAUTH, Served, served

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "build/clients/bin"
SCRIPTS = ROOT / "tests/attachd/clients"
# `make attachd` makes them first.
pytestmark = pytest.mark.skipif(
    not (ROOT / "build/clients/ready").exists(), reason="make build/clients/ready"
)
# What the documents of the field print for a connection that has been made.
CONNECTION_PROPERTIES = {
    "access_mode",
    "attachment_id",
    "auth_method",
    "auth_password",
    "auth_username",
    "encrypted",
    "qos_specs",
    "target_discovered",
    "target_iqn",
    "target_lun",
    "target_portal",
    "volume_id",
}


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served() as made:
        yield made


@pytest.fixture(scope="module")
def place_with_tokens() -> Iterator[Served]:
    with served(replace(NOAUTH, identity=IdentityKind.TOKENS)) as made:
        yield made


def environment(**variables: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, **variables}


class Failed(Exception):
    """What a command printed before it ended with a status."""


def run(program: str, *arguments: str, **variables: str) -> str:
    """What it prints on stdout. Raises Failed."""
    answer = subprocess.run(
        [str(BIN / program), *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if answer.returncode:
        raise Failed(answer.stdout + answer.stderr)
    return answer.stdout


class CommandLines:
    """The programs of the clients, with these variables; see clients/command_line.py."""

    def __init__(self, **variables: str) -> None:
        self._process = subprocess.Popen(
            [str(BIN / "python"), str(SCRIPTS / "command_line.py")],
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, *command: str) -> str:
        """What it prints on stdout. Raises Failed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        status, out, err = json.loads(self._process.stdout.readline())
        if status:
            raise Failed(out + err)
        return str(out)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def command_lines() -> Iterator[CommandLines]:
    made = CommandLines()
    yield made
    made.close()


class Cinder:
    """The command line of python-cinderclient, without authentication."""

    def __init__(self, command_lines: CommandLines, url: str) -> None:
        self._run = command_lines
        self._url = url

    def options(self, version: str = "3.71") -> list[str]:
        identity = ["--os-auth-type", "noauth", "--os-user-id", "user", "--os-project-id", "demo"]
        where = ["--os-endpoint", f"{self._url}/v3", "--os-volume-api-version", version]
        return identity + where

    def __call__(self, *arguments: str, version: str = "3.71") -> list[list[str]]:
        """The rows of the tables that it prints, their headings among them. Raises Failed."""
        return rows(self._run("cinder", *self.options(version), *arguments))

    def properties(self, *arguments: str, version: str = "3.71") -> dict[str, str]:
        return {row[0]: row[-1] for row in self(*arguments, version=version)}

    def refused(self, *arguments: str) -> str:
        with pytest.raises(Failed) as caught:
            self(*arguments)
        return str(caught.value)


def rows(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture
def cinder(command_lines: CommandLines, place: Served) -> Cinder:
    return Cinder(command_lines, place.url)


def test_the_programs_themselves(cinder: Cinder, place: Served) -> None:
    """As users start them; the other tests have one process for all commands."""
    cinder("create", "--name", "itself", "1")
    _, row = rows(run("cinder", *cinder.options(), "list"))
    assert "itself" in row
    cinder("delete", "itself")


def test_cinder_manages_volumes(cinder: Cinder) -> None:
    made = cinder.properties("create", "--name", "one", "--metadata", "a=b", "--", "1")
    assert (made["name"], made["size"], made["status"]) == ("one", "1", "available")
    assert made["volume_type"] == "default" and made["user_id"] == "user"
    heading, row = cinder("list")
    assert heading[:4] == ["ID", "Status", "Name", "Size"] and heading[-1] == "Attached to"
    assert row[:4] == [made["id"], "available", "one", "1"]
    cinder("extend", "one", "3")
    shown = cinder.properties("show", "one")
    assert (shown["id"], shown["size"]) == (made["id"], "3")
    cinder("rename", "one", "other")
    assert cinder.properties("metadata-show", "other")["a"] == "b"
    assert "other" in str(cinder("list", "--filters", "name~=the"))
    cinder("create", "--volume-type", "multiattach", "--name", "shared", "1")
    assert cinder.properties("show", "shared")["multiattach"] == "True"
    cinder("delete", "other", "shared")
    assert len(cinder("list")) == 1
    assert "other" in cinder.refused("show", "other")


def test_cinder_manages_snapshots(cinder: Cinder) -> None:
    cinder("create", "--name", "source", "1")
    made = cinder.properties("snapshot-create", "--name", "taken", "source")
    assert (made["name"], made["size"], made["status"]) == ("taken", "1", "available")
    _, row = cinder("snapshot-list")
    assert row[0] == made["id"] and "taken" in row
    assert cinder.properties("snapshot-show", "taken")["volume_id"] == made["volume_id"]
    cinder("snapshot-rename", "taken", "renamed")
    cinder("snapshot-metadata", "renamed", "set", "a=b")
    assert cinder.properties("snapshot-metadata-show", "renamed")["a"] == "b"
    copy = cinder.properties("create", "--snapshot-id", made["id"], "--name", "copy")
    assert copy["snapshot_id"] == made["id"]
    assert made["id"] in cinder.refused("delete", "source")
    cinder("snapshot-delete", "renamed")
    assert len(cinder("snapshot-list")) == 1
    cinder("delete", "source", "copy")


def test_cinder_attaches_in_steps(cinder: Cinder) -> None:
    volume_id = cinder.properties("create", "--name", "steps", "1")["id"]
    instance = str(uuid.uuid4())
    # As the documents of the field have it.
    made = cinder.properties("attachment-create", "steps", instance, version="3.27")
    assert (made["status"], made["instance"]) == ("reserved", instance)
    assert not CONNECTION_PROPERTIES & set(made) - {"volume_id"}
    heading, row = cinder("attachment-list")
    assert heading == ["ID", "Volume ID", "Status", "Server ID"]
    assert row == [made["id"], volume_id, "reserved", instance]
    shown = cinder.properties("attachment-show", made["id"])
    assert shown["lease_end_time"] > shown["attached_at"]
    host = ["--initiator", INITIATORS["a"], "--host", "a", "--ip", "192.0.2.10"]
    place = ["--mountpoint", "/dev/vdb", "--platform", "x86_64", "--multipath", "True"]
    updated = cinder.properties("attachment-update", made["id"], *host, *place, version="3.27")
    assert set(updated) >= CONNECTION_PROPERTIES
    assert updated["status"] == "attaching" and updated["auth_method"] == "CHAP"
    assert (updated["volume_id"], updated["attachment_id"]) == (volume_id, made["id"])
    assert (updated["target_lun"], updated["access_mode"]) == ("0", "rw")
    assert len(updated["auth_password"]) >= 12
    cinder("attachment-complete", made["id"], version="3.44")
    shown = cinder.properties("attachment-show", made["id"])
    assert (shown["status"], shown["auth_password"]) == ("attached", MASK)
    _, row = cinder("list")
    assert row[1] == "in-use" and row[-1] == instance
    assert made["id"] in cinder.refused("delete", "steps")
    cinder("attachment-delete", made["id"])
    assert len(cinder("attachment-list")) == 1
    cinder("delete", "steps")


def test_cinder_attaches_at_once(cinder: Cinder) -> None:
    cinder("create", "--name", "at-once", "1")
    host = ["--connect", "True", "--initiator", INITIATORS["a"], "--host", "a"]
    made = cinder.properties("attachment-create", *host, "at-once", version="3.27")
    assert set(made) >= CONNECTION_PROPERTIES
    assert made["target_iqn"].endswith(made["volume_id"])
    again = cinder.refused("attachment-create", *host, "at-once")
    assert made["id"] in again and "HTTP 409" in again
    cinder("attachment-delete", made["id"])
    made = cinder.properties("attachment-create", *host, "--mode", "ro", "at-once")
    assert (made["attach_mode"], made["access_mode"]) == ("ro", "ro")
    cinder("attachment-delete", made["id"])
    cinder("delete", "at-once")


def test_cinder_shows_the_site(cinder: Cinder) -> None:
    assert "multiattach" in str(cinder("type-list"))
    assert cinder.properties("type-default")["ID"] == "Is_Public"
    assert cinder("service-list")[1][:2] == ["targetd", "one"]
    assert cinder("availability-zone-list")[1] == ["one", "available"]
    assert "one#thin" in str(cinder("get-pools", "--detail"))
    assert cinder.properties("absolute-limits")["totalVolumesUsed"] == "0"
    assert cinder.properties("quota-show", "demo")["volumes"] == "-1"
    assert cinder("quota-usage", "demo")[0] == ["Type", "In_use", "Reserved", "Limit", "Allocated"]
    assert cinder.properties("summary")["total_count"] == "0"
    assert "3.71" in str(cinder("version-list"))
    assert "HTTP 501" in cinder.refused("backup-list")


def test_cinder_says_what_attachd_says(cinder: Cinder) -> None:
    cinder("create", "--name", "plain", "1")
    assert "mode ro" in cinder.refused("readonly-mode-update", "plain", "True")
    assert "HTTP 413" in cinder.refused("create", "999999")
    assert "colour" in cinder.refused("list", "--filters", "colour=red")
    cinder("delete", "plain")


def test_cinder_with_a_token(place_with_tokens: Served) -> None:
    tokens = place_with_tokens.service.site.tokens
    token, other = (tokens.add(project) for project in ("demo", "other"))

    def cinder(token: str, *arguments: str) -> str:
        where = ["--os-endpoint", f"{place_with_tokens.url}/v3", "--os-project-id", "demo"]
        options = ["--os-auth-type", "admin_token", *where, "--os-volume-api-version", "3.71"]
        # A secret is given where other users of the machine do not see it.
        return run("cinder", *options, *arguments, OS_TOKEN=token)

    assert "available" in cinder(token, "create", "--name", "mine", "1")
    assert "mine" not in cinder(other, "list")
    with pytest.raises(Failed, match="HTTP 401"):
        cinder("wrong", "list")
    cinder(token, "delete", "mine")


def script(name: str, *arguments: str) -> Any:
    return json.loads(run("python", str(SCRIPTS / name), *arguments))


def test_the_six_calls_from_python(place: Served) -> None:
    seen = script("six_calls.py", place.url)
    assert [(what, status) for what, status, _ in seen] == [
        ("reserve", "attaching"),
        ("reserve again", "attaching"),
        ("initialize_connection", "attaching"),
        ("attach", "in-use"),
        ("begin_detaching", "detaching"),
        ("roll_detaching", "in-use"),
        ("terminate_connection", "detaching"),
        ("detach", "available"),
        ("unreserve", "available"),
    ]
    answers = {what: answer for what, _, answer in seen}
    assert answers["reserve again"] == 400
    info = answers["initialize_connection"]
    assert info["driver_volume_type"] == "iscsi"
    assert set(info["data"]) >= CONNECTION_PROPERTIES
    (attachment,) = answers["attach"]
    assert (attachment["device"], attachment["host_name"]) == ("/dev/vdb", "a")
    assert answers["detach"] == []
    assert place.backing.kernel() == {}


SDK_SEES = {
    "volume": ["sdk", 1, "available", "project", {"a": "b"}],
    "extended": 2,
    "found": True,
    "renamed": [["renamed", {"a": "b", "c": "d"}]],
    "snapshots": [["taken", "available", 2]],
    "copy": [2, True],
    "reserved": ["reserved", True],
    "connected": ["attaching", "iscsi"],
    "completed": ["attached", "in-use"],
    "attachments": [True],
    "at once": ["attaching", 0],
    "types": ["default", "multiattach"],
    "zones": ["one"],
    "extensions": True,
    "limits": 1,
    "left": 0,
}


def test_openstacksdk(place: Served) -> None:
    assert script("sdk.py", place.url) == SDK_SEES


def test_openstacksdk_with_a_token(place_with_tokens: Served) -> None:
    token = place_with_tokens.service.site.tokens.add("project")
    assert script("sdk.py", place_with_tokens.url, token) == SDK_SEES


class OpenStack:
    """The command line of python-openstackclient, with JSON for an answer."""

    def __init__(self, command_lines: CommandLines, place: Served) -> None:
        self._run = command_lines
        self.place = place

    def volume(self, *arguments: str) -> Any:
        return json.loads(self._run("openstack", "volume", *arguments, "-f", "json"))

    def do(self, *arguments: str) -> None:
        """A command that answers nothing."""
        assert self._run("openstack", "volume", *arguments) == ""


@pytest.fixture(params=IdentityKind, scope="module")
def openstack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenStack]:
    if request.param is IdentityKind.NOAUTH:
        place: Served = request.getfixturevalue("place")
        kind, secret = "none", {}
    else:
        place = request.getfixturevalue("place_with_tokens")
        token = place.service.site.tokens.add("admin", is_admin=True)
        kind, secret = "admin_token", {"token": token}
    cloud = {
        "auth_type": kind,
        "auth": {"endpoint": f"{place.url}/v3", **secret},
        "block_storage_api_version": "3.71",
        # Where volumes are in use it asks a Nova of which, unless it knows that there is none.
        "has_compute": False,
    }
    path = tmp_path_factory.mktemp("openstack") / "clouds.json"
    path.write_text(json.dumps({"clouds": {"attachd": cloud}}))
    lines = CommandLines(OS_CLIENT_CONFIG_FILE=str(path), OS_CLOUD="attachd")
    yield OpenStack(lines, place)
    lines.close()


def test_openstack(openstack: OpenStack) -> None:
    made = openstack.volume("create", "--size", "1", "--property", "a=b", "cli")
    assert (made["name"], made["size"], made["status"]) == ("cli", 1, "available")
    assert made["properties"] == {"a": "b"}
    openstack.do("set", "--size", "2", "--description", "d", "cli")
    (row,) = openstack.volume("list")
    assert (row["ID"], row["Name"], row["Size"]) == (made["id"], "cli", 2)
    taken = openstack.volume("snapshot", "create", "--volume", "cli", "taken")
    assert taken["volume_id"] == made["id"]
    openstack.do("snapshot", "set", "--property", "c=d", "taken")
    assert openstack.volume("snapshot", "show", "taken")["properties"] == {"c": "d"}
    openstack.do("snapshot", "delete", "taken")
    assert openstack.volume("summary")["Total Count"] == 1
    assert openstack.volume("backend", "pool", "list")[0]["Name"] == "one#thick"
    assert openstack.volume("service", "list")[0]["Host"] == "one"
    openstack.do("delete", "cli")
    assert openstack.volume("list") == []


def test_openstack_attaches(openstack: OpenStack) -> None:
    """What is reserved: to make an attachment it asks Nova for the server."""
    made = openstack.volume("create", "--size", "1", "cli")
    instance = str(uuid.uuid4())
    caller = Caller("admin", is_admin=True)
    attachments = openstack.place.service.site.services.attachments
    attachment_id = attachments.create(caller, made["id"], instance_uuid=instance).id
    host = ["--initiator", INITIATORS["a"], "--host", "a"]
    attached = openstack.volume("attachment", "set", *host, attachment_id)
    assert attached["Volume ID"] == made["id"] and attached["Instance ID"] == instance
    assert attached["Properties"]["access_mode"] == "rw"
    openstack.do("attachment", "complete", attachment_id)
    (row,) = openstack.volume("attachment", "list")
    assert (row["ID"], row["Status"]) == (attachment_id, "attached")
    shown = openstack.volume("attachment", "show", attachment_id)
    assert shown["Properties"]["auth_password"] == MASK
    assert openstack.volume("show", "cli")["status"] == "in-use"
    (row,) = openstack.volume("list")
    assert row["Attached to"][0]["server_id"] == instance
    openstack.do("attachment", "delete", attachment_id)
    openstack.do("delete", "cli")
