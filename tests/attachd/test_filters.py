"""What clients look for is found by an index, however much else there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attachd.database.engine import Database
from attachd.database.records import Records
from attachd.model import AttachmentFilter, Caller, Page, VolumeFilter
from tests.attachd.watched import watched

CALLER = Caller("project")
ADMIN = Caller("administration", is_admin=True)
FILTERS: dict[str, Callable[[Records, Caller], object]] = {
    "volumes_of_name": lambda records, caller: records.volumes(
        caller, VolumeFilter(all_projects=True, name="disk"), Page(50)
    ),
    "volumes_of_status": lambda records, caller: records.volumes(
        caller, VolumeFilter(project_id="project", all_projects=True, status="error"), Page(50)
    ),
    "attachments_of_volume": lambda records, caller: records.attachments(
        caller, AttachmentFilter(all_projects=True, volume_id="volume"), Page(50)
    ),
    "attachments_of_instance": lambda records, caller: records.attachments(
        caller, AttachmentFilter(all_projects=True, instance_uuid="instance"), Page(50)
    ),
}


@pytest.mark.parametrize("caller", [CALLER, ADMIN])
@pytest.mark.parametrize("index", FILTERS)
def test_a_filter_reads_the_index_that_is_for_it(
    sqlite_url: str, index: str, caller: Caller
) -> None:
    database = Database(sqlite_url)
    seen: list[tuple[str, Any]] = []

    with watched(database, lambda *statement: seen.append(statement)):
        FILTERS[index](Records(database), caller)
    text, parameters = seen[0]
    with database.reading() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters).all()
    database.close()
    # One step: nothing is sorted.
    (step,) = [row[-1] for row in plan]
    assert f" INDEX {index} " in step, step
