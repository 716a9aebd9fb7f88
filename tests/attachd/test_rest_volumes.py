"""Volumes, their lists and their metadata."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from urllib.parse import parse_qs, urlparse

import pytest

from tests.attachd.served import Api, Served, good, refused, served

META = {"meta": {"a": "1"}}


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served(hosts=("one", "two")) as made:
        yield made


@pytest.fixture
def api(place: Served) -> Iterator[Api]:
    """In a project of its own."""
    project = f"p-{uuid.uuid4().hex}"
    with place.api() as made:
        yield made.by(f"user:{project}", f"/v3/{project}")


def test_a_volume_is_made_and_shown(api: Api, place: Served) -> None:
    answer = api.ask(
        "POST",
        "volumes",
        {"volume": {"size": 1, "name": " data ", "description": "d", "metadata": {"a": "b"}}},
    )
    assert answer.status_code == 202
    made = answer.json()["volume"]
    shown = api.get(f"volumes/{made['id']}")["volume"]
    assert {**shown, "updated_at": ""} == {**made, "updated_at": ""}
    assert (made["name"], made["description"], made["metadata"]) == ("data", "d", {"a": "b"})
    assert (made["size"], made["status"], made["multiattach"]) == (1, "available", False)
    assert (made["bootable"], made["encrypted"], made["attachments"]) == ("false", False, [])
    assert made["volume_type"] == "default"
    datetime.strptime(made["created_at"], "%Y-%m-%dT%H:%M:%S.%f")
    there = place.backings[made["availability_zone"]].volumes
    assert f"volume-{made['id']}" in there()
    api.delete(f"volumes/{made['id']}")
    assert f"volume-{made['id']}" not in there()
    refused(api.ask("GET", f"volumes/{made['id']}"), 404, "itemNotFound")


def test_names_that_are_not_given_are_null(api: Api) -> None:
    made = api.volume(name=None)
    assert made["name"] is None and made["description"] is None
    old = api.volume(display_name="n", display_description="d")
    assert (old["name"], old["description"]) == ("n", "d")


def test_a_size_may_be_digits(api: Api) -> None:
    assert api.volume(size="2")["size"] == 2


@pytest.mark.parametrize("wanted", [{"volume_type": "multiattach"}, {"multiattach": True}])
def test_a_volume_for_several_hosts(api: Api, wanted: dict[str, object]) -> None:
    made = api.volume(**wanted)
    assert made["multiattach"] is True and made["volume_type"] == "multiattach"
    one, two = (api.attachment(made["id"], host) for host in "ab")
    shown = api.get(f"attachments/{one['id']}")["attachment"]
    assert shown["shared_connections_by_attachment"] == [two["id"]]
    left = api.delete(f"attachments/{one['id']}")
    assert [one["id"] for one in left["attachments"]] == [two["id"]]
    assert left["shared_connections_by_attachment"] == [two["id"]]


def test_a_type_may_be_named_by_its_id(api: Api) -> None:
    (wanted,) = [one for one in api.get("types")["volume_types"] if one["name"] == "multiattach"]
    assert api.volume(volume_type=wanted["id"])["multiattach"] is True
    answer = api.ask("POST", "volumes", {"volume": {"size": 1, "volume_type": "fast"}})
    assert "default, multiattach" in refused(answer, 404, "itemNotFound")


def test_a_zone_is_a_storage_host(api: Api) -> None:
    zones = [one["zoneName"] for one in api.get("os-availability-zone")["availabilityZoneInfo"]]
    assert zones == ["one", "two"]
    for zone in zones:
        assert api.volume(availability_zone=zone)["availability_zone"] == zone
    answer = api.ask("POST", "volumes", {"volume": {"size": 1, "availability_zone": "nova"}})
    assert "nova" in refused(answer, 400, "badRequest")


def test_a_hint_names_the_pool(api: Api) -> None:
    body = {"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": {"place": "two#thin"}}
    assert api.post("volumes", body)["volume"]["os-vol-host-attr:host"] == "two#thin"


def test_a_volume_from_a_volume_and_from_a_snapshot(api: Api, place: Served) -> None:
    source = api.volume()
    copy = api.volume(size=None, source_volid=source["id"])
    assert copy["source_volid"] == source["id"] and copy["size"] == 1
    taken = api.post("snapshots", {"snapshot": {"volume_id": source["id"]}})["snapshot"]
    restored = api.volume(size=2, snapshot_id=taken["id"])
    assert restored["snapshot_id"] == taken["id"] and restored["size"] == 2
    assert copy["availability_zone"] == restored["availability_zone"] == source["availability_zone"]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({}, "size"),
        ({"size": 0}, "volume.size"),
        ({"size": -1}, "volume.size"),
        ({"size": 1 << 40}, "volume.size"),
        ({"size": 1.5}, "volume.size"),
        ({"size": "big"}, "volume.size"),
        ({"size": 1, "name": "n" * 256}, "volume.name"),
        ({"size": 1, "name": 3}, "volume.name"),
        ({"size": 1, "metadata": {"a": 1}}, "volume.metadata.a"),
        ({"size": 1, "metadata": {"": "x"}}, "volume.metadata"),
        ({"size": 1, "metadata": []}, "volume.metadata"),
        ({"size": 1, "snapshot_id": "x"}, "must be a UUID"),
        ({"size": 1, "multiattach": "perhaps"}, "volume.multiattach"),
        ({"size": 1, "colour": "red"}, "volume.colour"),
        ({"size": 1, "name": "a\0b"}, "NUL"),
    ],
)
def test_what_is_wrong_is_named(api: Api, wanted: dict[str, object], named: str) -> None:
    answer = api.ask("POST", "volumes", {"volume": wanted})
    assert named in refused(answer, 400, "badRequest")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"volume": null}', b"\xff", b"{}"])
def test_a_body_that_is_none_is_a_bad_request(api: Api, body: bytes) -> None:
    headers = {"X-Auth-Token": api.token, "Content-Type": "application/json; charset=utf-8"}
    answer = api.client.post(f"{api.prefix}/volumes", content=body, headers=headers)
    refused(answer, 400, "badRequest")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_page_in_a_browser_cannot_call(api: Api, kind: str) -> None:
    """It may send these without being asked, and JSON it may not."""
    headers = {"Content-Type": kind} if kind else {}
    content = b'{"volume": {"size": 1}}'
    answer = api.client.post(f"{api.prefix}/volumes", content=content, headers=headers)
    assert "application/json" in refused(answer, 415, "badMediaType")
    assert api.get("volumes")["volumes"] == []


@pytest.mark.parametrize("field", ["imageRef", "backup_id", "group_id", "consistencygroup_id"])
def test_what_the_field_has_and_attachd_has_not_is_said(api: Api, field: str) -> None:
    wanted = {"size": 1, field: str(uuid.uuid4())}
    assert field in refused(api.ask("POST", "volumes", {"volume": wanted}), 501, "notImplemented")
    # Clients send the field also where they want none.
    assert api.volume(**{field: None})["status"] == "available"


def test_no_room_is_over_the_limit(api: Api) -> None:
    answer = api.ask("POST", "volumes", {"volume": {"size": 1 << 20}})
    refused(answer, 413, "overLimit")


def test_a_volume_is_renamed(api: Api) -> None:
    volume_id = api.volume(name="old", description="d", metadata={"a": "b"})["id"]
    changed = api.put(f"volumes/{volume_id}", {"volume": {"name": "new"}})["volume"]
    assert (changed["name"], changed["description"]) == ("new", "d")
    changed = api.put(f"volumes/{volume_id}", {"volume": {"description": None}})["volume"]
    assert (changed["name"], changed["description"]) == ("new", None)
    assert api.get(f"volumes/{volume_id}")["volume"]["metadata"] == {"a": "b"}
    for body in ({}, {"size": 3}):
        refused(api.ask("PUT", f"volumes/{volume_id}", {"volume": body}), 400, "badRequest")


def test_a_volume_grows(api: Api) -> None:
    volume_id = api.volume()["id"]
    answer = api.ask("POST", f"volumes/{volume_id}/action", {"os-extend": {"new_size": "3"}})
    assert (answer.status_code, answer.content) == (202, b"")
    assert api.get(f"volumes/{volume_id}")["volume"]["size"] == 3
    for size in (3, 2, 0, None):
        body = {"os-extend": {"new_size": size}}
        refused(api.ask("POST", f"volumes/{volume_id}/action", body), 400, "badRequest")


def test_a_delete_that_is_refused_says_what_lives(api: Api) -> None:
    volume_id = api.volume()["id"]
    attachment_id = api.attachment(volume_id)["id"]
    assert attachment_id in refused(
        api.ask("DELETE", f"volumes/{volume_id}"), 409, "conflictingRequest"
    )
    api.delete(f"attachments/{attachment_id}")
    snapshot_id = api.post("snapshots", {"snapshot": {"volume_id": volume_id}})["snapshot"]["id"]
    assert snapshot_id in refused(
        api.ask("DELETE", f"volumes/{volume_id}"), 409, "conflictingRequest"
    )
    api.delete(f"volumes/{volume_id}", cascade="true")
    assert not api.get("snapshots")["snapshots"]


def test_another_projects_volume_is_not_there(place: Served) -> None:
    with place.api() as api:
        volume_id = api.volume()["id"]
        refused(api.ask("GET", f"volumes/{uuid.uuid4()}"), 404, "itemNotFound")
        # Without authentication everybody is an administrator, who sees it.
        assert api.by("u:another", "/v3/another").get(f"volumes/{volume_id}")


# Lists


def ids(found: list[dict[str, object]]) -> list[object]:
    return [one["id"] for one in found]


def test_a_list_is_newest_first_and_of_the_project(api: Api) -> None:
    made = [api.volume(name=f"v{number}")["id"] for number in range(3)]
    assert ids(api.get("volumes")["volumes"]) == made[::-1]
    (first, *_) = api.get("volumes")["volumes"]
    assert set(first) == {"id", "name", "links"}
    detail = api.get("volumes/detail")["volumes"]
    assert detail[0] == api.get(f"volumes/{made[2]}")["volume"]
    assert set(made) <= set(ids(api.get("volumes", all_tenants=1)["volumes"]))
    project = detail[0]["os-vol-tenant-attr:tenant_id"]
    others = api.by("u:another", "/v3/another")
    assert ids(others.get("volumes")["volumes"]) == []
    assert ids(others.get("volumes", project_id=project)["volumes"]) == made[::-1]


def test_a_list_is_read_page_by_page(api: Api) -> None:
    made = [api.volume()["id"] for _ in range(5)][::-1]
    seen: list[object] = []
    params = {"limit": "2"}
    while True:
        page = api.get("volumes", **params)
        seen += ids(page["volumes"])
        if "volumes_links" not in page:
            break
        (link,) = page["volumes_links"]
        assert link["rel"] == "next"
        found = urlparse(link["href"])
        assert found.path == f"{api.prefix}/volumes"
        params = {name: value for name, (value,) in parse_qs(found.query).items()}
        assert params["limit"] == "2"
    assert seen == made
    assert ids(api.get("volumes", limit=2, offset=1)["volumes"]) == made[1:3]
    assert ids(api.get("volumes", marker=made[2])["volumes"]) == made[3:]
    assert ids(api.get("volumes", limit=0)["volumes"]) == []
    refused(api.ask("GET", "volumes", marker=str(uuid.uuid4())), 404, "itemNotFound")


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "-1"},
        {"limit": "x"},
        {"offset": "9999999999"},
        {"sort": "colour"},
        {"sort": "name:sideways"},
        {"all_tenants": "perhaps"},
        {"metadata": "x"},
        {"name": "a\0"},
    ],
)
def test_a_list_that_cannot_be_is_a_bad_request(api: Api, params: dict[str, str]) -> None:
    refused(api.ask("GET", "volumes/detail", **params), 400, "badRequest")


def test_a_list_is_sorted(api: Api) -> None:
    made = {name: api.volume(name=name, size=size)["id"] for name, size in [("b", 1), ("a", 2)]}
    by_name = [made["a"], made["b"]]
    assert ids(api.get("volumes", sort="name:asc")["volumes"]) == by_name
    assert ids(api.get("volumes", sort_key="name", sort_dir="desc")["volumes"]) == by_name[::-1]
    assert ids(api.get("volumes", sort="size:desc,name")["volumes"]) == by_name
    assert ids(api.get("volumes", sort_key="display_name", sort_dir="asc")["volumes"]) == by_name


def test_a_list_is_filtered(api: Api) -> None:
    one = api.volume(name="one", metadata={"k": "v"}, availability_zone="one")["id"]
    two = api.volume(name="two", volume_type="multiattach", availability_zone="two")["id"]
    api.attachment(two)
    for params, found in [
        ({"name": "one"}, [one]),
        ({"name~": "w"}, [two]),
        ({"status": "available"}, [one]),
        ({"multiattach": "true"}, [two]),
        ({"host": "two"}, [two]),
        ({"availability_zone": "one"}, [one]),
        ({"metadata": "{'k': 'v'}"}, [one]),
        ({"metadata": '{"k": "v"}'}, [one]),
        ({"metadata": "{'k': 'w'}"}, []),
        ({"bootable": "true"}, []),
        ({"bootable": "false", "migration_status": ""}, [two, one]),
    ]:
        assert ids(api.get("volumes/detail", **params)["volumes"]) == found, params


def test_a_list_says_how_many_there_are(api: Api) -> None:
    for _ in range(3):
        api.volume()
    page = api.get("volumes", limit=1, with_count="true")
    assert page["count"] == 3 and len(page["volumes"]) == 1
    assert "count" not in api.at("3.44").get("volumes", with_count="true")
    found = api.get("volumes/summary")["volume-summary"]
    assert (found["total_count"], found["total_size"]) == (3, 3)


# Metadata


@pytest.mark.parametrize("kind", ["volumes", "snapshots"])
def test_metadata_is_kept_key_by_key(api: Api, kind: str) -> None:
    volume_id = api.volume(metadata={"a": "1"})["id"]
    path = f"volumes/{volume_id}"
    if kind == "snapshots":
        wanted = {"volume_id": volume_id, "metadata": {"a": "1"}}
        path = f"snapshots/{api.post('snapshots', {'snapshot': wanted})['snapshot']['id']}"
    assert api.get(f"{path}/metadata") == {"metadata": {"a": "1"}}
    assert api.post(f"{path}/metadata", {"metadata": {"b": "2"}}) == {
        "metadata": {"a": "1", "b": "2"}
    }
    assert api.get(f"{path}/metadata/b") == {"meta": {"b": "2"}}
    # A key may have a slash.
    assert api.put(f"{path}/metadata/c%2Fd", {"meta": {"c/d": "3"}}) == {"meta": {"c/d": "3"}}
    refused(api.ask("PUT", f"{path}/metadata/c", {"meta": {"d": "3"}}), 400, "badRequest")
    assert api.ask("DELETE", f"{path}/metadata/a").status_code == 200
    assert api.get(f"{path}/metadata") == {"metadata": {"b": "2", "c/d": "3"}}
    refused(api.ask("GET", f"{path}/metadata/a"), 404, "itemNotFound")
    refused(api.ask("DELETE", f"{path}/metadata/a"), 404, "itemNotFound")
    assert good(api.ask("PUT", f"{path}/metadata", {"metadata": {}})) == {"metadata": {}}
    refused(api.ask("GET", f"{kind}/{uuid.uuid4()}/metadata"), 404, "itemNotFound")
    refused(api.ask("PUT", f"{kind}/{uuid.uuid4()}/metadata/a", META), 404, "itemNotFound")


@pytest.mark.parametrize("kind", ["volumes", "snapshots"])
def test_keys_that_are_added_at_once_are_all_there(api: Api, kind: str) -> None:
    volume_id = api.volume()["id"]
    path = f"volumes/{volume_id}"
    if kind == "snapshots":
        made = api.post("snapshots", {"snapshot": {"volume_id": volume_id}})
        path = f"snapshots/{made['snapshot']['id']}"
    added = {f"k{number}": str(number) for number in range(40)}

    def add(key: str) -> int:
        meta = {"meta": {key: added[key]}}
        return api.ask("PUT", f"{path}/metadata/{key}", meta).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(add, added)) == {200}
    assert api.get(f"{path}/metadata") == {"metadata": added}
