"""No two labs of a machine have their busiest nodes on one processor while there is another."""

from __future__ import annotations

from lab.processors import OwnProcessor, idle_first

# No machine has them, so that no lab beside this test does.
WANTED = [100_001, 100_002]


def test_each_has_its_own_until_all_are_taken() -> None:
    first, second, third = (OwnProcessor(WANTED) for _ in range(3))
    assert (first.number, second.number) == (100_001, 100_002)
    assert third.number == WANTED[0], "shared, since all are taken"
    first.close()
    again = OwnProcessor(list(reversed(WANTED)))
    assert again.number == 100_001
    for one in (second, third, again):
        one.close()


def test_idle_ones_are_those_of_this_process() -> None:
    assert idle_first()
