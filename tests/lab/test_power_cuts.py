"""Power cuts under load, at random moments: nothing acknowledged is lost, nothing is left."""

from __future__ import annotations

import pytest

from lab import soak
from lab.soak import Counts

pytestmark = pytest.mark.lab

SEED = 20260101
CUTS = 12
ACKNOWLEDGED_MAX = 25
ACKNOWLEDGED_MIN = 100


def test_power_cuts_at_random_moments() -> None:
    counts = Counts()
    soak.run(CUTS, SEED, print, counts, acknowledged_max=ACKNOWLEDGED_MAX)
    print(counts.table())
    assert (counts.losses, counts.leaks, counts.orphans) == (0, 0, 0), counts.problems
    assert counts.cuts == CUTS
    assert counts.acknowledged >= ACKNOWLEDGED_MIN
    # Otherwise every cut found the host at rest.
    assert counts.done + counts.undone >= CUTS
    assert counts.logins > 0
    # The load was a mixed one.
    kinds = " ".join(counts.kinds)
    assert all(kind in kinds for kind in ("create", "snapshot", "connect", "write")), kinds
