"""Attachments: the calls of V2, over the wire."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from attachd.model import MASK
from tests.attachd.served import Api, Served, connector, good, refused, served


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served() as made:
        yield made


@pytest.fixture
def api(place: Served) -> Iterator[Api]:
    """In a project of its own."""
    project = f"p-{uuid.uuid4().hex}"
    with place.api() as made:
        yield made.by(f"user:{project}", f"/v3/{project}")


@pytest.fixture
def volume_id(api: Api) -> str:
    return str(api.volume()["id"])


def test_a_reservation(api: Api, volume_id: str) -> None:
    instance = str(uuid.uuid4())
    # Some clients send nothing for a connector, some null, some an empty one.
    nothings: list[dict[str, Any]] = [{}, {"connector": None}, {"connector": {}}]
    for nothing in nothings:
        body = {"attachment": {"volume_uuid": volume_id, "instance_uuid": instance, **nothing}}
        answer = api.ask("POST", "attachments", body)
        assert answer.status_code == 200
        made = answer.json()["attachment"]
        assert made == {
            "id": made["id"],
            "status": "reserved",
            "instance": instance,
            "volume_id": volume_id,
            "attached_at": "",
            "detached_at": "",
            "attach_mode": "rw",
            "connection_info": {},
        }
        assert api.status(volume_id) == "reserved"
        shown = api.get(f"attachments/{made['id']}")["attachment"]
        assert shown.pop("lease_end_time") > api.get(f"volumes/{volume_id}")["volume"]["created_at"]
        assert shown.pop("shared_connections_by_attachment") == []
        assert shown == made
        assert good(api.ask("DELETE", f"attachments/{made['id']}"))["attachments"] == []
        assert api.status(volume_id) == "available"


def test_a_reservation_is_connected_and_completed(api: Api, place: Served, volume_id: str) -> None:
    attachment_id = api.attachment(volume_id, host=None)["id"]
    body = {"attachment": {"connector": connector()}}
    answer = api.ask("PUT", f"attachments/{attachment_id}", body)
    assert answer.status_code == 200
    updated = answer.json()["attachment"]
    info = updated["connection_info"]
    assert info["driver_volume_type"] == "iscsi"
    assert info["volume_id"] == volume_id and info["attachment_id"] == attachment_id
    assert info["target_lun"] == 0 and info["target_portals"] == [info["target_portal"]]
    assert (updated["status"], api.status(volume_id)) == ("attaching", "attaching")
    assert place.backing.log_in("a", info)
    completed = api.ask(
        "POST", f"attachments/{attachment_id}/action", {"os-complete": attachment_id}
    )
    assert (completed.status_code, completed.content) == (204, b"")
    assert api.status(volume_id) == "in-use"
    shown = api.get(f"attachments/{attachment_id}")["attachment"]
    assert shown["status"] == "attached" and shown["attached_at"].startswith("20")
    (inside,) = api.get(f"volumes/{volume_id}")["volume"]["attachments"]
    assert inside["attachment_id"] == attachment_id
    assert inside["id"] == inside["volume_id"] == volume_id
    assert (inside["host_name"], inside["server_id"]) == ("a", shown["instance"])


def test_a_secret_is_shown_once(api: Api, volume_id: str) -> None:
    made = api.attachment(volume_id)
    secret = made["connection_info"]["auth_password"]
    assert len(secret) >= 12
    path = f"attachments/{made['id']}"
    for document in (
        api.get(path),
        api.get("attachments/detail"),
        api.get("attachments"),
        api.get(f"volumes/{volume_id}"),
        api.get("volumes/detail"),
    ):
        assert secret not in str(document)
    assert api.get(path)["attachment"]["connection_info"]["auth_password"] == MASK
    # The same connector again gets the same answer: a client that lost it asks again.
    again = api.put(path, {"attachment": {"connector": connector()}})["attachment"]
    assert again["connection_info"]["auth_password"] == secret


def test_read_only_is_read_only(api: Api, volume_id: str) -> None:
    made = api.attachment(volume_id, mode="ro")
    assert made["attach_mode"] == "ro"
    assert made["connection_info"]["access_mode"] == "ro"


def test_a_second_host_is_refused_by_name(api: Api, volume_id: str) -> None:
    first = api.attachment(volume_id)["id"]
    body = {"attachment": {"volume_uuid": volume_id, "connector": connector("b")}}
    answer = api.ask("POST", "attachments", body)
    assert first in refused(answer, 409, "conflictingRequest")
    instance = {"volume_uuid": volume_id, "instance_uuid": str(uuid.uuid4())}
    refused(api.ask("POST", "attachments", {"attachment": instance}), 400, "badRequest")


def test_a_live_migration_has_two_and_connects_one(api: Api, volume_id: str) -> None:
    instance = str(uuid.uuid4())
    first = api.attachment(volume_id, instance_uuid=instance)["id"]
    second = api.attachment(volume_id, host=None, instance_uuid=instance)["id"]
    body = {"attachment": {"connector": connector("b")}}
    answer = api.ask("PUT", f"attachments/{second}", body)
    assert first in refused(answer, 409, "conflictingRequest")
    left = api.delete(f"attachments/{first}")["attachments"]
    assert [one["id"] for one in left] == [second]
    assert set(left[0]) == {"id", "status", "instance", "volume_id"}
    assert api.put(f"attachments/{second}", body)["attachment"]["status"] == "attaching"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"volume_uuid": "x"}, "attachment.volume_uuid"),
        ({"volume_uuid": None}, "attachment.volume_uuid"),
        ({"instance_uuid": "x"}, "attachment.instance_uuid"),
        ({"mode": "rx"}, "attachment.mode"),
        ({"connector": "x"}, "attachment.connector"),
        ({"connector": {"host": "a"}}, "initiator"),
        ({"connector": {"initiator": "nobody", "host": "a"}}, "initiator"),
        ({"colour": "red"}, "attachment.colour"),
    ],
)
def test_what_is_wrong_is_named(
    api: Api, volume_id: str, change: dict[str, object], named: str
) -> None:
    body = {"attachment": {"volume_uuid": volume_id, **change}}
    assert named in refused(api.ask("POST", "attachments", body), 400, "badRequest")
    assert api.get("attachments")["attachments"] == []
    assert api.status(volume_id) == "available"


@pytest.mark.parametrize("wanted", [{}, {"connector": {}}, {"connector": None}])
def test_an_update_needs_a_connector(api: Api, volume_id: str, wanted: dict[str, object]) -> None:
    attachment_id = api.attachment(volume_id, host=None)["id"]
    answer = api.ask("PUT", f"attachments/{attachment_id}", {"attachment": wanted})
    assert "connector" in refused(answer, 400, "badRequest")


def test_what_is_not_there_is_not_found(api: Api, volume_id: str) -> None:
    path = f"attachments/{uuid.uuid4()}"
    body = {"attachment": {"connector": connector()}}
    for answer in (
        api.ask("GET", path),
        api.ask("PUT", path, body),
        api.ask("DELETE", path),
        api.ask("POST", f"{path}/action", {"os-complete": None}),
        api.ask("POST", "attachments", {"attachment": {"volume_uuid": str(uuid.uuid4())}}),
    ):
        refused(answer, 404, "itemNotFound")
    attachment_id = api.attachment(volume_id)["id"]
    api.delete(f"attachments/{attachment_id}")
    refused(api.ask("GET", f"attachments/{attachment_id}"), 404, "itemNotFound")


def test_only_what_is_connected_is_completed(api: Api, volume_id: str) -> None:
    attachment_id = api.attachment(volume_id, host=None)["id"]
    path = f"attachments/{attachment_id}/action"
    refused(api.ask("POST", path, {"os-complete": None}), 400, "badRequest")
    assert "os-complete" in refused(api.ask("POST", path, {"os-finish": None}), 400, "badRequest")
    bodies: list[Any] = [{}, {"os-complete": None, "more": None}, []]
    for body in bodies:
        refused(api.ask("POST", path, body), 400, "badRequest")


def test_a_list_is_filtered(api: Api) -> None:
    first, second = (api.volume()["id"] for _ in range(2))
    instance = str(uuid.uuid4())
    one = api.attachment(first, instance_uuid=instance)["id"]
    two = api.attachment(second, host=None)["id"]
    for params, found in [
        ({}, [two, one]),
        ({"volume_id": first}, [one]),
        ({"status": "reserved"}, [two]),
        ({"attach_status": "attaching"}, [one]),
        ({"instance_id": instance}, [one]),
        ({"limit": "1"}, [two]),
        ({"marker": two}, [one]),
        ({"sort": "created_at:asc"}, [one, two]),
    ]:
        shown = api.get("attachments", **params)["attachments"]
        assert [one["id"] for one in shown] == found, params
    assert set(shown[0]) == {"id", "status", "instance", "volume_id"}
    (detail, _) = api.get("attachments/detail")["attachments"]
    assert "connection_info" in detail and "lease_end_time" not in detail
    refused(api.ask("GET", "attachments", colour="red"), 400, "badRequest")
    assert len(api.get("attachments", all_tenants="1")["attachments"]) >= 2
    assert api.by("u:other", "/v3/other").get("attachments")["attachments"] == []


def test_a_record_is_shown_while_its_storage_host_is_away(place: Served) -> None:
    with served() as other, other.api() as api:
        attachment_id = api.attachment(api.volume()["id"])["id"]
        other.backing.daemon.stop()
        found = api.get(f"attachments/{attachment_id}")["attachment"]
        assert found["shared_connections_by_attachment"] is None
        # What needs the host says so, and that it is being taken care of.
        answer = api.ask("DELETE", f"attachments/{attachment_id}")
        assert attachment_id in refused(answer, 504, "computeFault")
