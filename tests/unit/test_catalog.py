"""The index in memory: what its pools have promised."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from targetd.catalog import Catalog
from targetd.changes import Changes
from targetd.model import PoolConfig, Volume

THIN = PoolConfig("thin", "storage", "thin")
THICK = PoolConfig("thick", "storage")


def volume(pool: PoolConfig = THIN, size_bytes: int = 7) -> Volume:
    return Volume(str(uuid.uuid4()), pool, size_bytes, False, datetime.now(UTC))


def test_what_a_pool_has_promised_is_the_sum_of_its_volumes() -> None:
    catalog = Catalog(Changes())
    grown, other, kept = volume(), volume(THICK, 5), volume()
    for one in (grown, other, kept):
        catalog.put_volume(one)
    catalog.put_volume(replace(grown, size_bytes=10))
    assert (catalog.promised_bytes(THIN), catalog.promised_bytes(THICK)) == (17, 5)
    for _ in range(2):
        catalog.drop_volume(grown.volume_id)
    assert (catalog.promised_bytes(THIN), catalog.promised_bytes(THICK)) == (7, 5)


def test_many_volumes_change_at_once() -> None:
    catalog = Catalog(Changes())

    def change(_: int) -> None:
        one = volume()
        catalog.put_volume(one)
        catalog.put_volume(replace(one, size_bytes=9))
        catalog.drop_volume(one.volume_id)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(change, range(2000)))
    assert catalog.promised_bytes(THIN) == 0 and catalog.volumes() == []
