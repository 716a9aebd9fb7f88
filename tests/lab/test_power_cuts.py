"""Power cuts under load, at random moments: nothing acknowledged is lost, nothing is left."""

from __future__ import annotations

import pytest

from lab.soak import Soak
from tests.hosts import Host, LabBacking

pytestmark = pytest.mark.lab

SEED = 20260101
CUTS = 12
ACKNOWLEDGED_MAX = 25
ACKNOWLEDGED_MIN = 100


def test_power_cuts_at_random_moments(lab_host: Host, lab_backing: LabBacking) -> None:
    soak = Soak(
        lab_backing.storage,
        lab_backing.initiators["a"],
        SEED,
        print,
        acknowledged_max=ACKNOWLEDGED_MAX,
    )
    counts = soak.run(CUTS)
    print(counts.table())
    assert (counts.losses, counts.leaks, counts.orphans) == (0, 0, 0), counts.problems
    assert counts.cuts == CUTS
    assert counts.acknowledged >= ACKNOWLEDGED_MIN
    # Otherwise every cut found the host at rest.
    assert counts.done + counts.undone >= CUTS
    assert counts.logins > 0
