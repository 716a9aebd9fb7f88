"""Snapshots, types, and what clients ask about the site."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from attachd.rest.routes import NOT_SERVED
from tests.attachd.served import Api, Served, refused, served


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


def test_a_snapshot_is_made_shown_changed_and_deleted(api: Api) -> None:
    volume_id = api.volume()["id"]
    body = {"snapshot": {"volume_id": volume_id, "name": "s", "metadata": {"a": "b"}}}
    answer = api.ask("POST", "snapshots", body)
    assert answer.status_code == 202
    made = answer.json()["snapshot"]
    assert (made["name"], made["volume_id"], made["size"]) == ("s", volume_id, 1)
    assert (made["status"], made["metadata"]) == ("available", {"a": "b"})
    path = f"snapshots/{made['id']}"
    shown = api.get(path)["snapshot"]
    assert shown["os-extended-snapshot-attributes:progress"] == "100%"
    assert shown["os-extended-snapshot-attributes:project_id"] in api.prefix
    assert "user_id" not in api.at("3.40").get(path)["snapshot"]
    assert shown["user_id"] == "user"
    changed = api.put(path, {"snapshot": {"name": "t", "description": "d"}})["snapshot"]
    assert (changed["name"], changed["description"]) == ("t", "d")
    assert api.ask("DELETE", path).status_code == 202
    refused(api.ask("GET", path), 404, "itemNotFound")


def test_snapshots_are_listed(api: Api) -> None:
    first, second = (api.volume()["id"] for _ in range(2))
    made = [
        api.post("snapshots", {"snapshot": {"volume_id": volume_id, "name": name}})["snapshot"]
        for volume_id, name in [(first, "one"), (second, "two")]
    ]
    one, two = (snapshot["id"] for snapshot in made)
    for params, found in [
        ({}, [two, one]),
        ({"volume_id": first}, [one]),
        ({"name": "two"}, [two]),
        ({"status": "error"}, []),
        ({"limit": "1"}, [two]),
    ]:
        shown = api.get("snapshots", **params)["snapshots"]
        assert [snapshot["id"] for snapshot in shown] == found, params
    page = api.get("snapshots/detail", limit=1, with_count="true")
    assert page["count"] == 2 and page["snapshots_links"][0]["rel"] == "next"
    assert page["snapshots"][0] == api.get(f"snapshots/{two}")["snapshot"]


def test_a_snapshot_that_cannot_be(api: Api) -> None:
    for body, named in [
        ({}, "snapshot.volume_id"),
        ({"volume_id": "x"}, "snapshot.volume_id"),
        ({"volume_id": str(uuid.uuid4()), "name": 3}, "snapshot.name"),
    ]:
        answer = api.ask("POST", "snapshots", {"snapshot": body})
        assert named in refused(answer, 400, "badRequest")
    body = {"snapshot": {"volume_id": str(uuid.uuid4())}}
    refused(api.ask("POST", "snapshots", body), 404, "itemNotFound")


def test_an_admin_forces_a_deletion(api: Api) -> None:
    body = {"snapshot": {"volume_id": api.volume()["id"]}}
    path = f"snapshots/{api.post('snapshots', body)['snapshot']['id']}"
    refused(api.ask("POST", f"{path}/action", {"os-reset_status": {}}), 400, "badRequest")
    assert api.ask("POST", f"{path}/action", {"os-force_delete": None}).status_code == 202
    refused(api.ask("GET", path), 404, "itemNotFound")


def test_types(api: Api) -> None:
    types = {one["name"]: one for one in api.get("types")["volume_types"]}
    assert set(types) == {"default", "multiattach"}
    assert types["multiattach"]["extra_specs"] == {"multiattach": "<is> True"}
    for found in types.values():
        assert api.get(f"types/{found['id']}")["volume_type"] == found
        assert api.get(f"types/{found['name']}")["volume_type"] == found
    path = f"types/{types['multiattach']['id']}/extra_specs"
    assert api.get(path) == {"extra_specs": {"multiattach": "<is> True"}}
    assert api.get(f"{path}/multiattach") == {"multiattach": "<is> True"}
    refused(api.ask("GET", f"{path}/nothing"), 404, "itemNotFound")
    refused(api.ask("GET", f"types/{uuid.uuid4()}"), 404, "itemNotFound")


def test_limits_say_what_is_used(api: Api) -> None:
    source = api.volume(size=2)["id"]
    api.volume(size=3, multiattach=True)
    api.post("snapshots", {"snapshot": {"volume_id": source}})
    found = api.get("limits")["limits"]
    assert found["rate"] == []
    absolute = found["absolute"]
    assert absolute["totalVolumesUsed"] == 2 and absolute["totalSnapshotsUsed"] == 1
    assert absolute["totalGigabytesUsed"] == 2 + 3 + 2
    assert absolute["maxTotalVolumes"] == -1
    project = api.prefix.rpartition("/")[2]
    quota = api.get(f"os-quota-sets/{project}", usage="true")["quota_set"]
    assert quota["id"] == project
    assert quota["volumes"] == {"limit": -1, "in_use": 2, "reserved": 0, "allocated": 0}
    assert quota["gigabytes_multiattach"]["in_use"] == 3
    assert api.get(f"os-quota-sets/{project}")["quota_set"]["volumes"] == -1
    assert api.get(f"os-quota-sets/{project}/defaults")["quota_set"]["volumes"] == -1


def test_storage_hosts_are_services_zones_and_pools(place: Served, api: Api) -> None:
    hosts = place.service.site.services.hosts
    hosts.drain("two")
    try:
        one, two = api.get("os-services")["services"]
        assert (one["host"], one["binary"], one["status"]) == ("one", "targetd", "enabled")
        assert (two["host"], two["status"], two["disabled_reason"]) == (
            "two",
            "disabled",
            "draining",
        )
        assert api.get("os-services", host="one")["services"] == [one]
        assert api.get("os-services", binary="cinder-backup")["services"] == []
        zones = api.get("os-availability-zone")["availabilityZoneInfo"]
        assert [zone["zoneState"]["available"] for zone in zones] == [True, False]
    finally:
        hosts.resume("two")
    names = [pool["name"] for pool in api.get("scheduler-stats/get_pools")["pools"]]
    assert names == ["one#thick", "one#thin", "two#thick", "two#thin"]
    pool, *_ = api.get("scheduler-stats/get_pools", detail="True")["pools"]
    assert pool["capabilities"]["total_capacity_gb"] > 0


def test_extensions_and_filters_are_listed(api: Api) -> None:
    aliases = [one["alias"] for one in api.get("extensions")["extensions"]]
    assert "os-volume-actions" in aliases
    (found,) = api.get("resource_filters", resource="attachment")["resource_filters"]
    assert "volume_id" in found["filters"]


@pytest.mark.parametrize("name", sorted(NOT_SERVED))
def test_what_only_others_serve_is_said(api: Api, name: str) -> None:
    for path in (name, f"{name}/detail", f"{name}/{uuid.uuid4()}"):
        assert name in refused(api.ask("GET", path), 501, "notImplemented")


def test_paths_and_methods_that_are_not_there(api: Api) -> None:
    for path in ("nothing", "volumes/a/b", "volumes/a/b/c/d", "%00", "volumes/%2e%2e/action/x"):
        code = 400 if "%00" in path else 404
        refused(api.ask("GET", path), code, "badRequest" if code == 400 else "itemNotFound")
    assert "GET, POST" in refused(api.ask("DELETE", "volumes"), 405, "badMethod")
    refused(api.ask("PATCH", "volumes/x"), 405, "badMethod")
    refused(api.client.get("/favicon.ico"), 501, "notImplemented")
