"""Which versions are served, and what a microversion changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from attachd.errors import Invalid
from attachd.rest import routes, versions
from attachd.rest.faults import NotAcceptable
from tests.attachd.served import Api, Served, refused, served


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served() as made:
        yield made


@pytest.fixture
def api(place: Served) -> Iterator[Api]:
    with place.api() as made:
        yield made


@pytest.mark.parametrize(
    ("header", "minor"),
    [
        (None, 0),
        ("volume 3.27", 27),
        ("volume 3.0", 0),
        ("volume latest", 71),
        ("compute 2.60", 0),
        ("compute 2.60, volume 3.44", 44),
        ("Volume 3.71", 71),
    ],
)
def test_a_microversion_is_negotiated(header: str | None, minor: int) -> None:
    assert versions.negotiated(header) == minor


@pytest.mark.parametrize("version", ["3.72", "2.0", "4.0", "3.9999"])
def test_a_microversion_that_is_not_served_is_not_acceptable(version: str) -> None:
    with pytest.raises(NotAcceptable, match=r"3\.0 and maximum is 3\.71"):
        versions.negotiated(f"volume {version}")


@pytest.mark.parametrize("version", ["3", "three", "3.-1", "3.1.2", ""])
def test_what_is_no_version_is_invalid(version: str) -> None:
    with pytest.raises(Invalid, match="OpenStack-API-Version"):
        versions.negotiated(f"volume {version}")


def test_the_versions_are_told_to_anybody(api: Api) -> None:
    (at_root, under_v3, with_slash) = (api.client.get(path) for path in ("/", "/v3", "/v3/"))
    assert at_root.status_code == 300
    assert under_v3.status_code == with_slash.status_code == 200
    assert at_root.json() == under_v3.json() == with_slash.json()
    (found,) = at_root.json()["versions"]
    assert (found["version"], found["min_version"]) == ("3.71", "3.0")
    (own,) = [link["href"] for link in found["links"] if link["rel"] == "self"]
    assert own == f"{str(api.client.base_url).rstrip('/')}/v3/"


def test_an_answer_says_its_version_and_its_request(api: Api) -> None:
    answer = api.at("3.44").ask("GET", "volumes")
    assert answer.headers["openstack-api-version"] == "volume 3.44"
    assert answer.headers["vary"] == "OpenStack-API-Version"
    request_id = answer.headers["x-openstack-request-id"]
    assert request_id == answer.headers["x-compute-request-id"]
    assert str(uuid.UUID(request_id.removeprefix("req-"))) in request_id


def test_an_unknown_microversion_is_refused_by_the_service(api: Api) -> None:
    assert "3.71" in refused(api.at("3.72").ask("GET", "volumes"), 406, "computeFault")
    refused(api.at("x").ask("GET", "volumes"), 400, "badRequest")


def test_other_major_versions_are_not_served(api: Api) -> None:
    refused(api.by(api.token, "/v2").ask("GET", "p/volumes"), 501, "notImplemented")


@pytest.mark.parametrize("project", ["", "/project"])
@pytest.mark.parametrize("version", ["3.0", "3.71"])
def test_the_project_may_be_left_out(api: Api, project: str, version: str) -> None:
    found = api.at(version).by("user:project", f"/v3{project}").volume()
    assert found["os-vol-tenant-attr:tenant_id"] == "project"
    own, bookmark = (link["href"] for link in found["links"])
    root = str(api.client.base_url).rstrip("/")
    assert own == f"{root}/v3{project}/volumes/{found['id']}"
    assert bookmark == f"{root}{project}/volumes/{found['id']}"


def test_a_path_begins_with_a_project_or_not() -> None:
    assert routes.of_project(["volumes"]) == (None, ["volumes"])
    assert routes.of_project(["volumes", "detail"]) == (None, ["volumes", "detail"])
    assert routes.of_project(["p", "volumes", "detail"]) == ("p", ["volumes", "detail"])
    assert routes.of_project(["p", "nothing"]) == ("p", ["nothing"])


SINCE = {
    "group_id": "3.13",
    "provider_id": "3.21",
    "shared_targets": "3.48",
    "service_uuid": "3.48",
    "cluster_name": "3.61",
    "volume_type_id": "3.63",
    "consumes_quota": "3.65",
}


def test_a_volume_shows_more_with_each_version(api: Api) -> None:
    volume_id = api.volume()["id"]
    for key, version in SINCE.items():
        minor = int(version.partition(".")[2])
        before = api.at(f"3.{minor - 1}").get(f"volumes/{volume_id}")["volume"]
        since = api.at(version).get(f"volumes/{volume_id}")["volume"]
        assert key not in before and key in since, key
    found = api.get(f"volumes/{volume_id}")["volume"]
    # os-brick locks by the second where the first is not false.
    assert found["shared_targets"] is False
    assert str(uuid.UUID(found["service_uuid"])) == found["service_uuid"]


def test_attachments_came_with_their_version(api: Api) -> None:
    volume_id = api.volume()["id"]
    message = refused(api.at("3.26").ask("GET", "attachments"), 404, "itemNotFound")
    assert "3.27" in message
    made = api.at("3.27").attachment(volume_id)
    path = f"attachments/{made['id']}/action"
    refused(api.at("3.43").ask("POST", path, {"os-complete": None}), 404, "itemNotFound")
    api.at("3.44").post(path, {"os-complete": None})
    api.delete(f"attachments/{made['id']}")


def test_the_mode_of_an_attachment_came_with_its_version(api: Api) -> None:
    body = {"attachment": {"volume_uuid": api.volume()["id"], "mode": "ro"}}
    assert "3.54" in refused(api.at("3.53").ask("POST", "attachments", body), 400, "badRequest")
    assert api.at("3.54").post("attachments", body)["attachment"]["attach_mode"] == "ro"


def test_volumes_in_use_grow_since_a_version(api: Api) -> None:
    volume_id = api.volume()["id"]
    made = api.attachment(volume_id)
    api.post(f"attachments/{made['id']}/action", {"os-complete": None})
    path, body = f"volumes/{volume_id}/action", {"os-extend": {"new_size": 2}}
    assert "3.42" in refused(api.at("3.41").ask("POST", path, body), 400, "badRequest")
    api.at("3.42").post(path, body)
    assert api.get(f"volumes/{volume_id}")["volume"]["size"] == 2


def test_snapshots_of_what_is_in_use_need_force_before_a_version(api: Api) -> None:
    volume_id = api.volume()["id"]
    api.attachment(volume_id)
    body = {"snapshot": {"volume_id": volume_id}}
    assert "force" in refused(api.at("3.65").ask("POST", "snapshots", body), 400, "badRequest")
    api.at("3.65").post("snapshots", {"snapshot": {"volume_id": volume_id, "force": True}})
    api.at("3.66").post("snapshots", body)
    body["snapshot"]["force"] = False
    refused(api.at("3.66").ask("POST", "snapshots", body), 400, "badRequest")


def test_unknown_fields_and_filters_are_refused_since_their_versions(api: Api) -> None:
    body = {"volume": {"size": 1, "status": "available", "user_id": "u"}}
    assert "status" in refused(api.at("3.53").ask("POST", "volumes", body), 400, "badRequest")
    assert api.at("3.52").post("volumes", body)["volume"]["user_id"] == "user"
    answer = api.at("3.31").ask("GET", "volumes", colour="red")
    assert "colour" in refused(answer, 400, "badRequest")
    assert api.at("3.30").get("volumes", colour="red")["volumes"]
