"""The records: tables, lists by pages, and what each call costs."""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from attachd import errors
from attachd.database.engine import Database
from attachd.database.migrations import migrate
from attachd.database.records import Records
from attachd.database.schema import metadata
from attachd.model import (
    AttachmentFilter,
    AttachStatus,
    Caller,
    Page,
    SnapshotFilter,
    SortKey,
    VolumeFilter,
)
from targetd.errors import StartError
from tests.attachd import postgresql
from tests.attachd.population import Population, counted
from tests.attachd.site import ADMIN, CALLER, OTHER, Clock, Site, connector, volume_record
from tests.attachd.watched import watched

ALL = {"all_projects": True}


@pytest.fixture
def records(database: Database, clock: Clock) -> Records:
    return Records(database, clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def population(database: Database, clock: Clock) -> Population:
    """Ten of the caller's project, and three of another."""
    found = Population(clock)
    found.add(database, 10)
    found.add(database, 3, project_id=OTHER.project_id, host="another")
    return found


# Tables


def definitions(database: Database) -> list[str]:
    """As the database says them, without the order of columns' spaces."""
    query = (
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name != 'alembic_version'"
        if database.is_sqlite
        else "SELECT indexdef FROM pg_indexes WHERE tablename != 'alembic_version'"
        " AND schemaname = 'public' UNION ALL SELECT concat_ws(' ', table_name, column_name,"
        " data_type, character_maximum_length, is_nullable) FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name != 'alembic_version'"
    )
    with database.reading() as connection:
        return sorted(re.sub(r"\s+", " ", row[0]) for row in connection.execute(text(query)))


def test_migrations_make_the_tables_of_the_schema(database: Database) -> None:
    migrated = definitions(database)
    assert len(migrated) > 20
    with database.writing() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert definitions(database) == migrated


def test_who_starts_at_the_same_time_migrates_once(database: Database) -> None:
    with database.writing() as connection:
        metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(migrate, database) for _ in range(4)]:
            done.result(60)
    with database.reading() as connection:
        assert set(metadata.tables) < set(inspect(connection).get_table_names())


def test_a_database_of_a_newer_attachd_is_left_alone(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = definitions(database)
    with pytest.raises(StartError, match=r"newer attachd.*9999"):
        migrate(database)
    assert definitions(database) == before


# The database


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense:secret", "not a URL"),
        ("mysql://user:secret@host/name", "mysql is not known"),
        ("sqlite://", "absolute path"),
        ("sqlite:///relative.sqlite", "absolute path"),
        ("sqlite:////nonexistent/attachd.sqlite", "No such file"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str, expected: str) -> None:
    with pytest.raises(StartError, match=expected) as refused:
        Database(url)
    assert "secret" not in str(refused.value)


def test_a_database_that_is_down_is_said_without_its_password(tmp_path: Path) -> None:
    database = Database(f"postgresql://user:secret@/name?host={tmp_path}")
    for use in (database.reading, database.writing):
        with pytest.raises(errors.RecordsUnavailable, match="does not answer") as down, use():
            pass
        assert "secret" not in str(down.value)
        assert down.value.code == 503
    database.close()


def test_sqlite_is_durable_and_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "attachd.sqlite"
    database = Database(f"sqlite:///{path}")
    with database.writing() as connection:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2)):
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database.close()


def test_a_transaction_is_written_as_a_whole_or_not_at_all(records: Records, clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError), records.writing() as changes:
        changes.add_volume(volume_record("volume", clock()))
        assert changes.volume("volume") is not None
        raise ZeroDivisionError
    assert records.volume("volume") is None


@pytest.mark.postgresql
def test_what_the_database_cannot_hold_is_the_callers_mistake(
    postgresql_server: postgresql.Server, clock: Clock
) -> None:
    with postgresql_server.database() as url:
        database = Database(url)
        with pytest.raises(errors.Invalid), Records(database, clock).writing() as changes:
            changes.add_volume(volume_record("x" * 40, clock()))
        database.close()


# What was deleted


def test_what_was_deleted_is_history_until_it_is_purged(
    records: Records, population: Population, clock: Clock
) -> None:
    volume, attachment = population.volumes[0], population.attachments[0]
    snapshot = population.snapshots[0]
    with records.writing() as changes:
        changes.remove_attachment(attachment.id)
        changes.remove_snapshot(snapshot.id)
        changes.remove_volume(volume.id)
    for found in (
        records.volume(volume.id),
        records.attachment(attachment.id),
        records.snapshot(snapshot.id),
    ):
        assert found is None
    assert volume.id not in {one.id for one in records.volumes(CALLER, VolumeFilter(), Page())}
    assert records.attachments_of(volume.id) == ()
    with records.writing() as changes:
        assert changes.purge(clock.now - timedelta(days=1)) == 0
        assert changes.purge(clock()) == 3
        assert changes.purge(clock()) == 0
    assert len(records.volumes(ADMIN, VolumeFilter(all_projects=True), Page())) == 12


# Lists

List = Callable[[Records, Caller, Page], list[Any]]
LISTS: dict[str, tuple[List, str]] = {
    "volumes": (
        lambda records, caller, page: records.volumes(caller, VolumeFilter(), page),
        "volumes",
    ),
    "attachments": (
        lambda records, caller, page: records.attachments(caller, AttachmentFilter(), page),
        "attachments",
    ),
    "snapshots": (
        lambda records, caller, page: records.snapshots(caller, SnapshotFilter(), page),
        "snapshots",
    ),
}


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort_key", SortKey)
@pytest.mark.parametrize("name", LISTS)
def test_pages_have_each_once_in_their_order(
    records: Records, population: Population, name: str, sort_key: SortKey, descending: bool
) -> None:
    listed, of = LISTS[name]
    expected = {one.id for one in getattr(population, of)[:10]}
    found: list[Any] = []
    marker = None
    while page := listed(records, CALLER, Page(3, marker, sort_key, descending)):
        found += page
        marker = page[-1].id
    assert [one.id for one in found] == list(dict.fromkeys(one.id for one in found))
    assert {one.id for one in found} == expected
    if name == "volumes" or sort_key in (SortKey.CREATED, SortKey.ID):
        fields = {SortKey.CREATED: "create_time", SortKey.SIZE: "size_gib"}
        keys = [(getattr(one, fields.get(sort_key, sort_key)), one.id) for one in found]
        assert all((a > b) == descending for a, b in pairwise(keys))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_goes_on_where_it_was(
    records: Records, population: Population, database: Database, name: str
) -> None:
    listed, of = LISTS[name]
    expected = [one.id for one in getattr(population, of)[:10]][::-1]
    first = listed(records, CALLER, Page(4))
    # What comes and goes meanwhile: a younger one, and the marker itself.
    population.add(database, 1)
    with records.writing() as changes:
        getattr(changes, f"remove_{name[:-1]}")(first[-1].id)
    rest = listed(records, CALLER, Page(marker=first[-1].id))
    assert [one.id for one in (*first, *rest)] == expected
    assert [one.id for one in listed(records, CALLER, Page(2, offset=1))] == [
        one.id for one in listed(records, CALLER, Page())
    ][1:3]


@pytest.mark.parametrize("name", LISTS)
def test_a_marker_that_is_none_or_anothers_is_not_found(
    records: Records, population: Population, name: str
) -> None:
    listed, of = LISTS[name]
    for marker in ("none", getattr(population, of)[-1].id):
        with pytest.raises(errors.NotFound, match=marker):
            listed(records, CALLER, Page(marker=marker))


def test_a_project_sees_its_own(records: Records, population: Population) -> None:
    def counts(caller: Caller, **where: Any) -> list[int]:
        return [
            len(records.volumes(caller, VolumeFilter(**where), Page())),
            len(records.attachments(caller, AttachmentFilter(**where), Page())),
            len(records.snapshots(caller, SnapshotFilter(**where), Page())),
        ]

    assert counts(CALLER) == [10] * 3
    # Who is no admin may ask for more, and gets no more.
    assert counts(CALLER, **ALL) == [10] * 3
    assert counts(CALLER, project_id=OTHER.project_id, **ALL) == [10] * 3
    assert counts(OTHER) == [3] * 3
    assert counts(ADMIN) == [0] * 3
    assert counts(ADMIN, **ALL) == [13] * 3
    assert counts(ADMIN, project_id=OTHER.project_id, **ALL) == [3] * 3


def test_volumes_are_filtered(records: Records, population: Population) -> None:
    wanted = population.volumes[4]
    with records.writing() as changes:
        changes.update_volume(
            wanted.id, name="100% _sure", status="error", multiattach=False, metadata={"a b": "c"}
        )
    for where in (
        VolumeFilter(name="100% _sure"),
        VolumeFilter(name_like="% _"),
        VolumeFilter(status="error"),
        VolumeFilter(multiattach=False),
        VolumeFilter(metadata={"a b": "c"}),
    ):
        (found,) = records.volumes(CALLER, where, Page())
        assert found.id == wanted.id
        assert found.attachments == (population.attachments[4],)
    everywhere = VolumeFilter(all_projects=True, host="another")
    assert len(records.volumes(ADMIN, everywhere, Page())) == 3
    assert records.volumes(CALLER, VolumeFilter(metadata={"a b": "d"}), Page()) == []


def test_attachments_are_filtered(records: Records, population: Population) -> None:
    wanted = population.attachments[4]
    for where in (
        AttachmentFilter(volume_id=wanted.volume_id),
        AttachmentFilter(instance_uuid=wanted.instance_uuid),
        AttachmentFilter(instance_uuid=wanted.instance_uuid, attach_status=AttachStatus.ATTACHED),
    ):
        assert records.attachments(CALLER, where, Page()) == [wanted]
    assert len(records.attachments(CALLER, AttachmentFilter(attached_host="a"), Page())) == 10
    reserved = AttachmentFilter(attach_status=AttachStatus.RESERVED)
    assert records.attachments(CALLER, reserved, Page()) == []


def test_snapshots_are_filtered(records: Records, population: Population) -> None:
    wanted = population.snapshots[4]
    where = SnapshotFilter(volume_id=wanted.volume_id, name=wanted.name, status="available")
    assert records.snapshots(CALLER, where, Page()) == [wanted]


# What it costs


def looks(records: Records, population: Population) -> dict[str, Callable[[], object]]:
    """Each call that only looks."""
    volume, attachment = population.volumes[7], population.attachments[7]
    page = Page(5)
    after = {
        "volume": Page(5, volume.id),
        "attachment": Page(5, attachment.id),
        "snapshot": Page(5, population.snapshots[7].id),
    }
    return {
        "volume": lambda: records.volume(volume.id),
        "attachment": lambda: records.attachment(attachment.id),
        "snapshot": lambda: records.snapshot(population.snapshots[7].id),
        "volumes": lambda: records.volumes(CALLER, VolumeFilter(), page),
        "volumes on": lambda: records.volumes(CALLER, VolumeFilter(), after["volume"]),
        "attachments": lambda: records.attachments(CALLER, AttachmentFilter(), page),
        "attachments on": lambda: records.attachments(
            CALLER, AttachmentFilter(), after["attachment"]
        ),
        "snapshots": lambda: records.snapshots(CALLER, SnapshotFilter(), page),
        "snapshots on": lambda: records.snapshots(CALLER, SnapshotFilter(), after["snapshot"]),
    }


def test_looking_costs_as_many_statements_with_1000_records_as_with_10(
    records: Records, database: Database, clock: Clock
) -> None:
    def cost(population: Population) -> dict[str, Counter[str]]:
        found = {}
        for name, look in looks(records, population).items():
            with counted(database) as statements:
                look()
            found[name] = Counter(statements)
        return found

    population = Population(clock)
    population.add(database, 10)
    few = cost(population)
    population.add(database, 990)
    assert cost(population) == few
    assert {name: statements["SELECT"] for name, statements in few.items()} == {
        "volume": 2,
        "attachment": 1,
        "snapshot": 1,
        "volumes": 2,
        "volumes on": 3,
        "attachments": 1,
        "attachments on": 2,
        "snapshots": 1,
        "snapshots on": 2,
    }
    # No transaction is begun to look.
    assert all(set(statements) == {"SELECT"} for statements in few.values())


def test_attaching_costs_two_transactions_with_1000_records_as_with_10(site: Site) -> None:
    def cost() -> dict[str, Counter[str]]:
        attachments, volume_id = site.service.attachments, site.volume()
        found: dict[str, Counter[str]] = {}
        ids: list[str] = []
        calls: dict[str, Callable[[], object]] = {
            "attach": lambda: ids.append(
                attachments.create(CALLER, volume_id, connector=connector()).id
            ),
            "complete": lambda: attachments.complete(CALLER, ids[0]),
            "detach": lambda: attachments.delete(CALLER, ids[0]),
            "reserve": lambda: ids.append(attachments.create(CALLER, volume_id).id),
            "give up": lambda: attachments.delete(CALLER, ids[1]),
        }
        for name, call in calls.items():
            with counted(site.database) as statements:
                call()
            del statements["BEGIN"]
            found[name] = Counter(statements)
        return found

    population = Population(site.clock)
    population.add(site.database, 10)
    few = cost()
    population.add(site.database, 990)
    assert cost() == few
    assert {name: one["COMMIT"] for name, one in few.items()} == {
        "attach": 2,
        "complete": 1,
        "detach": 2,
        "reserve": 1,
        "give up": 1,
    }
    writing = {name: one["INSERT"] + one["UPDATE"] for name, one in few.items()}
    assert writing == {"attach": 4, "complete": 2, "detach": 4, "reserve": 2, "give up": 2}
    assert {name: one["SELECT"] for name, one in few.items()} == {
        "attach": 2,
        "complete": 3,
        "detach": 3,
        "reserve": 2,
        "give up": 3,
    }


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("caller", [CALLER, ADMIN])
def test_a_page_is_read_from_an_index_in_its_order(
    sqlite_url: str, clock: Clock, name: str, caller: Caller
) -> None:
    database = Database(sqlite_url)
    population = Population(clock)
    population.add(database, 100)
    seen: list[tuple[str, Any]] = []

    def look(text: str, parameters: Any) -> None:
        if "LIMIT" in text:
            seen.append((text, parameters))

    everywhere = caller.is_admin
    page = Page(10, getattr(population, name)[50].id)
    records = Records(database, clock)
    lists: dict[str, Callable[[], object]] = {
        "volumes": lambda: records.volumes(caller, VolumeFilter(all_projects=everywhere), page),
        "attachments": lambda: records.attachments(
            caller, AttachmentFilter(all_projects=everywhere), page
        ),
        "snapshots": lambda: records.snapshots(
            caller, SnapshotFilter(all_projects=everywhere), page
        ),
    }
    with watched(database, look):
        lists[name]()
    ((text, parameters),) = seen
    with database.reading() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters).all()
    database.close()
    index = f"{name}_by_age" if caller.is_admin else f"{name}_of_project"
    (step,) = [row[-1] for row in plan]
    assert re.match(rf"SEARCH {name} USING (COVERING )?INDEX {index} \(", step), step
