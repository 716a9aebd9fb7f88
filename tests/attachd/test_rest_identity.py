"""Who may call, and whose records it is about."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from attachd import errors
from attachd import tokens as tokens_module
from attachd.config import IdentityKind
from attachd.database.engine import Database
from attachd.rest.identity import NoAuth
from attachd.tokens import PREFIX, Tokens
from tests.attachd.served import NOAUTH, Api, Served, connector, refused, served


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served(replace(NOAUTH, identity=IdentityKind.TOKENS)) as made:
        yield made


@pytest.fixture
def anybody(place: Served) -> Iterator[Api]:
    with place.api() as made:
        yield made.by("")


@pytest.fixture
def one(place: Served, anybody: Api) -> Api:
    return anybody.by(place.service.site.tokens.add("one"))


@pytest.fixture
def two(place: Served, anybody: Api) -> Api:
    return anybody.by(place.service.site.tokens.add("two"))


@pytest.fixture
def admin(place: Served, anybody: Api) -> Api:
    return anybody.by(place.service.site.tokens.add("site", is_admin=True))


# Without authentication


@pytest.mark.parametrize(
    ("token", "project", "found"),
    [
        ("user:p", None, "p"),
        ("user:p", "p", "p"),
        ("notused", "p", "p"),
        ("notused", None, "admin"),
        ("", None, "admin"),
        ("", "p", "p"),
        ("user:", "p", "p"),
    ],
)
def test_without_authentication_a_project_is_named(
    token: str, project: str | None, found: str
) -> None:
    caller = NoAuth().caller({"x-auth-token": token}, project, "req-1")
    assert (caller.project_id, caller.is_admin, caller.request_id) == (found, True, "req-1")
    assert caller.user_id == (token.partition(":")[0] if ":" in token else "")


def test_without_authentication_the_address_is_of_the_same_project() -> None:
    with pytest.raises(errors.Invalid, match="project a"):
        NoAuth().caller({"x-auth-token": "u:b"}, "a", "")
    for name in ("p" * 256, "a\nb", "\x1b[2J"):
        with pytest.raises(errors.Invalid, match="printed"):
            NoAuth().caller({}, name, "")


# By tokens


def test_a_token_is_needed(anybody: Api) -> None:
    answer = anybody.ask("GET", "volumes")
    assert "attachd token add" in refused(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    for token in ("x", "user:one", PREFIX + "x" * 43):
        refused(anybody.by(token).ask("GET", "volumes"), 401, "unauthorized")
    # These say nothing of anybody's.
    assert anybody.client.get("/").status_code == 300
    assert anybody.client.get("/healthcheck").text == "OK"


def test_a_token_may_be_a_bearer_token(one: Api) -> None:
    for header in (f"Bearer {one.token}", f"bearer {one.token}"):
        answer = one.client.get("/v3/volumes", headers={"Authorization": header})
        assert answer.status_code == 200
    answer = one.client.get("/v3/volumes", headers={"Authorization": f"Basic {one.token}"})
    assert answer.status_code == 401


def test_what_is_another_projects_is_not_there(one: Api, two: Api, admin: Api) -> None:
    volume_id = one.volume()["id"]
    attachment_id = one.attachment(volume_id)["id"]
    snapshot_id = one.post("snapshots", {"snapshot": {"volume_id": volume_id}})["snapshot"]["id"]
    for path in (
        f"volumes/{volume_id}",
        f"snapshots/{snapshot_id}",
        f"attachments/{attachment_id}",
    ):
        assert one.get(path)
        refused(two.ask("GET", path), 404, "itemNotFound")
        refused(two.ask("DELETE", path), 404, "itemNotFound")
    content = {"connector": connector()}
    for action in ("os-reserve", "os-begin_detaching", "os-detach", "os-terminate_connection"):
        answer = two.ask("POST", f"volumes/{volume_id}/action", {action: content})
        refused(answer, 404, "itemNotFound")
    body = {"attachment": {"volume_uuid": volume_id}}
    refused(two.ask("POST", "attachments", body), 404, "itemNotFound")
    for kind in ("volumes", "snapshots", "attachments"):
        for params in ({}, {"all_tenants": "1"}, {"project_id": "one"}):
            assert two.get(kind, **params)[kind] == [], (kind, params)
        assert one.get(kind)[kind] != []
        assert admin.get(kind)[kind] == []
        assert admin.get(kind, all_tenants="1")[kind] != []
        assert admin.get(kind, project_id="one")[kind] != []
    assert admin.get(f"volumes/{volume_id}")["volume"]["os-vol-host-attr:host"] == "one#thick"
    assert "os-vol-host-attr:host" not in one.get(f"volumes/{volume_id}")["volume"]


def test_the_host_of_an_attachment_is_for_admins(one: Api, admin: Api) -> None:
    volume_id = one.volume()["id"]
    attachment_id = one.attachment(volume_id)["id"]
    one.post(f"attachments/{attachment_id}/action", {"os-complete": None})
    for api, shown in ((one, None), (admin, "a")):
        (found,) = api.get(f"volumes/{volume_id}")["volume"]["attachments"]
        assert found["host_name"] == shown


def test_the_address_is_of_the_tokens_project(one: Api, admin: Api) -> None:
    assert one.by(one.token, "/v3/one").get("volumes")
    refused(one.by(one.token, "/v3/two").ask("GET", "volumes"), 403, "forbidden")
    made = admin.by(admin.token, "/v3/two").volume()
    assert made["os-vol-tenant-attr:tenant_id"] == "two"
    refused(admin.by(admin.token, "/v3/a%0Ab").ask("GET", "volumes"), 400, "badRequest")


def test_some_things_are_for_admins(one: Api, admin: Api) -> None:
    volume_id = one.volume()["id"]
    calls: list[tuple[str, str, Any]] = [
        ("GET", "os-services", None),
        ("GET", "scheduler-stats/get_pools", None),
        ("GET", "os-quota-sets/two", None),
        ("POST", f"volumes/{volume_id}/action", {"os-reset_status": {"status": "available"}}),
        ("POST", f"volumes/{volume_id}/action", {"os-force_detach": {}}),
        ("POST", f"volumes/{volume_id}/action", {"os-force_delete": {}}),
    ]
    for method, path, body in calls:
        refused(one.ask(method, path, body), 403, "forbidden")
        assert admin.ask(method, path, body).is_success, path
    assert one.get("os-quota-sets/one")


def test_a_token_is_removed(place: Served, anybody: Api) -> None:
    tokens = place.service.site.tokens
    api = anybody.by(tokens.add("one", name="lost"))
    assert api.ask("GET", "volumes").status_code == 200
    tokens.remove("lost")
    with patch.object(time, "monotonic", return_value=time.monotonic() + 60):
        assert tokens.find(api.token) is None
    refused(api.ask("GET", "volumes"), 401, "unauthorized")


# The records of tokens


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)


def test_a_token_is_found_by_itself_only(tokens: Tokens, database: Database) -> None:
    secret = tokens.add("p", is_admin=True, name="n")
    found = tokens.find(secret)
    assert found is not None
    assert (found.name, found.project_id, found.is_admin) == ("n", "p", True)
    assert tokens.find(secret[:-1]) is None and tokens.find("") is None
    assert tokens.list() == [found]
    with database.reading() as connection:
        stored = str(connection.exec_driver_sql("SELECT * FROM tokens").all())
    assert secret not in stored and secret.removeprefix(PREFIX) not in stored


def test_tokens_differ_and_have_names(tokens: Tokens) -> None:
    secrets = {tokens.add("p") for _ in range(3)}
    assert len(secrets) == 3
    assert len({one.name for one in tokens.list()}) == 3
    tokens.add("p", name="n")
    with pytest.raises(errors.InUse, match="attachd token remove n"):
        tokens.add("q", name="n")
    with pytest.raises(errors.NotFound, match="nobody"):
        tokens.remove("nobody")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "-a", "a/b", "a" * 256, "a\n"])
def test_a_project_has_a_name(tokens: Tokens, name: str) -> None:
    with pytest.raises(errors.Invalid, match="project"):
        tokens.add(name)


def test_a_token_is_asked_for_once_in_a_while(tokens: Tokens) -> None:
    secret = tokens.add("p", name="n")
    asked = 0
    reading = tokens._database.reading

    def counted() -> object:
        nonlocal asked
        asked += 1
        return reading()

    with patch.object(tokens._database, "reading", counted):
        for _ in range(3):
            assert tokens.find(secret)
        assert asked == 1
        later = time.monotonic() + tokens_module.REMEMBERED_SECONDS
        with patch.object(time, "monotonic", return_value=later):
            assert tokens.find(secret)
        assert asked == 2
        # What is not known is not remembered: anybody can make those up.
        for _ in range(2):
            assert tokens.find(f"{PREFIX}{uuid.uuid4()}") is None
        assert asked == 4
