"""Actions of volumes: the six calls of V1, and what administrators may force, over the wire."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attachd.served import Api, Served, connector, good, refused, served


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served() as made:
        yield made


@pytest.fixture
def api(place: Served) -> Iterator[Api]:
    with place.api() as made:
        yield made


@pytest.fixture
def volume_id(api: Api) -> str:
    return str(api.volume()["id"])


def act(api: Api, volume_id: str, action: str, content: Any = None) -> None:
    answer = api.ask("POST", f"volumes/{volume_id}/action", {action: content})
    assert (answer.status_code, answer.content) == (202, b""), answer.text


def info_of(api: Api, volume_id: str) -> Any:
    body = {"os-initialize_connection": {"connector": connector()}}
    answer = api.ask("POST", f"volumes/{volume_id}/action", body)
    assert answer.status_code == 200
    return good(answer)["connection_info"]


def attached(api: Api, volume_id: str) -> Any:
    act(api, volume_id, "os-reserve")
    info = info_of(api, volume_id)
    content = {"mountpoint": "/dev/vdb", "mode": "rw", "host_name": "a"}
    act(api, volume_id, "os-attach", content)
    return info


def has_access(place: Served, volume_id: str) -> bool:
    return any(names for iqn, names in place.backing.kernel().items() if volume_id in iqn)


def test_the_six_calls(api: Api, place: Served, volume_id: str) -> None:
    act(api, volume_id, "os-reserve")
    info = info_of(api, volume_id)
    assert has_access(place, volume_id)
    assert info["driver_volume_type"] == "iscsi"
    assert info["data"]["volume_id"] == volume_id and len(info["data"]["auth_password"]) >= 12
    content = {"mountpoint": "/dev/vdb", "mode": "rw", "host_name": "a"}
    act(api, volume_id, "os-attach", content)
    found = api.get(f"volumes/{volume_id}")["volume"]
    assert found["status"] == "in-use"
    (attachment,) = found["attachments"]
    assert (attachment["device"], attachment["host_name"]) == ("/dev/vdb", "a")
    act(api, volume_id, "os-begin_detaching")
    assert api.status(volume_id) == "detaching"
    act(api, volume_id, "os-terminate_connection", {"connector": connector()})
    assert not has_access(place, volume_id)
    act(api, volume_id, "os-detach", {"attachment_id": None})
    assert api.status(volume_id) == "available"


def test_what_was_begun_is_taken_back(api: Api, volume_id: str) -> None:
    act(api, volume_id, "os-reserve")
    refused(api.ask("POST", f"volumes/{volume_id}/action", {"os-reserve": None}), 400, "badRequest")
    act(api, volume_id, "os-unreserve")
    assert api.status(volume_id) == "available"
    attached(api, volume_id)
    act(api, volume_id, "os-begin_detaching")
    act(api, volume_id, "os-roll_detaching")
    assert api.status(volume_id) == "in-use"


def test_an_attachment_of_an_instance_is_detached_by_its_id(api: Api, volume_id: str) -> None:
    act(api, volume_id, "os-reserve")
    info_of(api, volume_id)
    instance = str(uuid.uuid4())
    act(api, volume_id, "os-attach", {"mountpoint": "/dev/vdb", "instance_uuid": instance})
    (found,) = api.get(f"volumes/{volume_id}")["volume"]["attachments"]
    assert found["server_id"] == instance
    act(api, volume_id, "os-begin_detaching")
    act(api, volume_id, "os-detach", {"attachment_id": found["attachment_id"]})
    assert api.status(volume_id) == "available"


def test_an_admin_forces_a_detach(api: Api, place: Served, volume_id: str) -> None:
    attached(api, volume_id)
    act(api, volume_id, "os-force_detach", {"connector": None})
    assert api.status(volume_id) == "available"
    assert not has_access(place, volume_id)


def test_an_admin_resets_a_status(api: Api, volume_id: str) -> None:
    act(api, volume_id, "os-reset_status", {"status": "error"})
    assert api.status(volume_id) == "error"
    act(api, volume_id, "os-reset_status", {"status": "available"})
    assert api.status(volume_id) == "available"
    act(api, volume_id, "os-force_delete", {})
    refused(api.ask("GET", f"volumes/{volume_id}"), 404, "itemNotFound")


@pytest.mark.parametrize(
    ("action", "content", "named"),
    [
        ("os-attach", {"host_name": "a"}, "os-attach.mountpoint"),
        ("os-attach", {"mountpoint": "/dev/vdb"}, "instance_uuid or host_name"),
        (
            "os-attach",
            {"mountpoint": "/x", "host_name": "a", "instance_uuid": str(uuid.uuid4())},
            "not both",
        ),
        ("os-attach", {"mountpoint": "/x", "host_name": "a", "mode": "wr"}, "os-attach.mode"),
        ("os-attach", 3, "os-attach"),
        ("os-initialize_connection", None, "os-initialize_connection.connector"),
        ("os-initialize_connection", {"connector": {}}, "os-initialize_connection.connector"),
        ("os-initialize_connection", {"connector": {"host": "a"}}, "initiator"),
        ("os-detach", {"attachment_id": "x"}, "os-detach.attachment_id"),
        ("os-extend", {}, "os-extend.new_size"),
        ("os-extend", {"new_size": "x"}, "os-extend.new_size"),
        ("os-reset_status", {"status": "fine"}, "os-reset_status.status"),
        ("os-reset_status", {}, "os-reset_status.status"),
        ("os-reset_status", {"attach_status": "detached"}, "delete the attachment"),
        ("os-fly", None, "os-reserve"),
    ],
)
def test_what_is_wrong_is_named(
    api: Api, volume_id: str, action: str, content: Any, named: str
) -> None:
    answer = api.ask("POST", f"volumes/{volume_id}/action", {action: content})
    assert named in refused(answer, 400, "badRequest")


@pytest.mark.parametrize(
    "action", ["os-update_readonly_flag", "os-set_bootable", "os-retype", "revert", "os-reimage"]
)
def test_what_is_not_served_says_what_to_do(api: Api, volume_id: str, action: str) -> None:
    answer = api.ask("POST", f"volumes/{volume_id}/action", {action: {}})
    assert action in refused(answer, 501, "notImplemented")


def test_an_action_of_no_volume(api: Api) -> None:
    path = f"volumes/{uuid.uuid4()}/action"
    for action in ("os-reserve", "os-unreserve", "os-begin_detaching", "os-detach"):
        refused(api.ask("POST", path, {action: None}), 404, "itemNotFound")
