"""Which pool gets a volume, from what pools say of themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attachd.errors import Invalid
from attachd.model import Pool
from attachd.placement import GIBIBYTE, Marks, Place, best, objection

MARKS = Marks(over_subscription_max=2.0, full_percent_max=90.0)


def thick(host: str, free_gib: int) -> Pool:
    return Pool(host, "thick", False, 100 * GIBIBYTE, free_gib * GIBIBYTE, 0)


def thin(host: str, provisioned_gib: int, full_percent: float = 0.0) -> Pool:
    size = 100 * GIBIBYTE
    return Pool(host, "thin", True, size, size, provisioned_gib * GIBIBYTE, full_percent)


def chosen(*pools: Pool, size_gib: int = 1) -> str:
    found = best(pools, size_gib * GIBIBYTE, MARKS)
    return f"{found.host}#{found.name}" if found else ""


def test_the_most_free_space_wins() -> None:
    assert chosen(thick("a", 10), thick("b", 20), thick("c", 15)) == "b#thick"


def test_a_thin_pool_counts_what_it_has_promised() -> None:
    assert chosen(thin("a", 95), thick("b", 10)) == "b#thick"
    assert chosen(thin("a", 85), thick("b", 10)) == "a#thin"
    # Both promise more than they have.
    assert chosen(thin("a", 180), thin("b", 150)) == "b#thin"


def test_of_equals_it_is_always_the_same() -> None:
    assert chosen(thick("b", 10), thick("a", 10)) == chosen(thick("a", 10), thick("b", 10))


def test_a_thick_pool_gives_no_more_than_it_has() -> None:
    assert chosen(thick("a", 10), size_gib=10) == "a#thick"
    assert chosen(thick("a", 10), size_gib=11) == ""
    assert "10.0 GiB free" in objection(thick("a", 10), 11 * GIBIBYTE, MARKS)


def test_a_thin_pool_promises_up_to_its_mark() -> None:
    assert chosen(thin("a", 190), size_gib=10) == "a#thin"
    assert chosen(thin("a", 190), size_gib=11) == ""
    assert "190.0 GiB of the 200.0 GiB" in objection(thin("a", 190), 11 * GIBIBYTE, MARKS)


def test_a_full_thin_pool_gets_nothing_new() -> None:
    assert chosen(thin("a", 0, 89.9)) == "a#thin"
    assert chosen(thin("a", 0, 90.0), thick("b", 1)) == "b#thick"
    assert objection(thin("a", 0, 90.0), GIBIBYTE, MARKS) == "is 90 % full"
    # How full a thick pool is, is in what it has free.
    assert objection(replace(thick("a", 10), full_percent=100.0), GIBIBYTE, MARKS) == ""


@pytest.mark.parametrize(
    ("text", "host", "pool"), [(None, None, None), ("a", "a", None), ("a#thin", "a", "thin")]
)
def test_a_place_by_name(text: str | None, host: str | None, pool: str | None) -> None:
    place = Place.named(text)
    assert (place.host, place.pool) == (host, pool)
    assert place.allows(thin("a", 0))
    assert place.allows(thin("b", 0)) == (host is None)
    assert place.allows(thick("a", 0)) == (pool is None)


@pytest.mark.parametrize("text", ["", "#", "a#", "#thin"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(Invalid, match="HOST"):
        Place.named(text)
