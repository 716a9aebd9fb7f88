"""What a killed process had claimed is free when it is back, and nobody else's is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from attachd import errors
from attachd.claims import Claims
from attachd.instance import FILE, Instance
from attachd.service import Service
from lab.storage import ROOT
from targetd.errors import NotReady, StartError
from tests.attachd.served import NOAUTH
from tests.attachd.site import Site, volume_record

HOLDER = """
import sys, time
from pathlib import Path
from attachd.instance import Instance
print(Instance(Path(sys.argv[1])).id, flush=True)
time.sleep(600)
"""


def leave_claimed(claims: Claims, volume_id: str) -> None:
    """As a process leaves it that is killed after its first transaction."""
    with claims.hold(volume_id, "attach") as claim, claim.begin():
        pass


def test_only_the_same_instance_releases_what_it_held(site: Site) -> None:
    records, volume_id, others = site.service.records, site.volume(), site.volume()
    leave_claimed(Claims(records, "host:1", instance="a"), volume_id)
    leave_claimed(Claims(records, "host:2", instance="b"), others)
    for stranger in ("c", "%", "_"):
        assert Claims(records, "host:3", instance=stranger).release_left() == 0
    back = Claims(records, "host:4", wait_seconds=0, instance="a")
    other = Claims(records, "host:5", wait_seconds=0, instance="c")
    busy = pytest.raises(errors.Busy, match="attach by host:1 since")
    with busy, other.once(volume_id, "detach"):
        pass
    assert back.release_left() == 1
    with other.once(volume_id, "detach"):
        pass
    with pytest.raises(errors.Busy, match="attach by host:2 since"), back.once(others, "detach"):
        pass
    site.clock.pass_by(back.hold_seconds)


def test_it_is_the_same_over_restarts_and_one_at_a_time(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline().strip()
        with pytest.raises(NotReady, match="another attachd works with"):
            Instance(tmp_path)
        process.kill()
    again = Instance(tmp_path)
    assert again.id == told
    again.close()
    (tmp_path / FILE).write_bytes(b"\xffhalf of it")
    other = Instance(tmp_path)
    assert other.id != told
    other.close()


def test_a_copy_on_another_machine_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Instance(tmp_path)
    here.close()
    monkeypatch.setattr("attachd.instance.socket.gethostname", lambda: "elsewhere")
    there = Instance(tmp_path)
    there.close()
    assert there.id != here.id


def test_a_state_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="instance: cannot be written and locked"):
        Instance(tmp_path / "none")


def test_a_service_begins_with_what_it_left(tmp_path: Path) -> None:
    config = replace(NOAUTH, state_directory=tmp_path)
    first = Service(config)
    claims = first.site.claims
    record = volume_record("b7a1d2a4-8a39-4d0d-9d2b-6f6d1c7c2a10", claims.records.clock())
    with claims.records.writing() as changes:
        changes.add_volume(record)
    leave_claimed(claims, record.id)
    with pytest.raises(NotReady, match=str(tmp_path)):
        Service(config)
    first.start()
    first.stop()
    second = Service(config)
    found = second.site.claims.records.volume(record.id)
    assert found is not None and found.claim is None
    second.start()
    second.stop()
