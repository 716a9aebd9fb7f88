"""What a crash left of a creation, on engines that fail as LVM does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from targetd.api.v1 import volume_pb2
from targetd.config import Config
from targetd.daemon import Daemon
from targetd.engines.interface import EngineError, Inventory, NameTaken, Origin
from targetd.engines.simulated import SimulatedHost, SimulatedLio, SimulatedLvm
from targetd.model import Source, SourceKind, Volume, volume_name
from targetd.secretbox import SecretBox, load_key
from targetd.state import State
from tests.hosts import MEBIBYTE, POOLS, Host, SimulatedBacking, refused_with

VOLUME = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
SOURCE = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"
HALF_MADE = Volume(VOLUME, POOLS[1], 4 << 20, False, datetime(2026, 1, 2, tzinfo=UTC))


class BrokenLvm(SimulatedLvm):
    """One volume that cannot be activated, and that may not be removable either."""

    removable = True

    def activate(self, volume: Origin) -> None:
        raise EngineError("reload ioctl failed: No data available")

    def remove(self, volume: Origin) -> None:
        if not self.removable:
            raise EngineError("lvremove failed")
        super().remove(volume)


def started(
    tmp_path: Path, lvm: SimulatedLvm, begun_at: datetime = HALF_MADE.create_time
) -> list[str]:
    """Start and stop a daemon after a begun creation; returns what it has still begun."""
    path = tmp_path / "state"
    path.mkdir()
    box = SecretBox(load_key(path / "host.key", create=True))
    state = State(path / "state.sqlite", box)
    state.begin_creating(volume_name(VOLUME), begun_at)
    state.close()
    config = Config(
        pools=POOLS,
        state_directory=path,
        socket=tmp_path / "run" / "targetd.sock",
        portal_addresses=("192.0.2.1",),
    )
    daemon = Daemon(config, lvm, SimulatedLio(SimulatedHost()))
    daemon.start()
    daemon.stop()
    state = State(path / "state.sqlite", box)
    begun = list(state.creating())
    state.close()
    return begun


def test_a_half_made_volume_is_removed(tmp_path: Path) -> None:
    lvm = BrokenLvm(POOLS, SimulatedHost())
    lvm.create(HALF_MADE)
    assert started(tmp_path, lvm) == []
    assert lvm.inventory().volumes == []


def test_one_that_cannot_be_healed_does_not_stop_the_start(tmp_path: Path) -> None:
    lvm = BrokenLvm(POOLS, SimulatedHost())
    lvm.removable = False
    lvm.create(HALF_MADE)
    assert started(tmp_path, lvm) == [volume_name(VOLUME)], "the next start tries again"


@pytest.mark.parametrize("seconds", [0, 1])
def test_only_what_that_creation_has_made_is_removed(tmp_path: Path, seconds: int) -> None:
    """Records that were restored can hold one that was begun and repeated since."""
    lvm = SimulatedLvm(POOLS, SimulatedHost())
    origin = lvm.create(replace(HALF_MADE, volume_id=SOURCE))
    filled = replace(HALF_MADE, source=Source(SourceKind.VOLUME, SOURCE))
    lvm.clone(filled, origin)
    assert started(tmp_path, lvm, HALF_MADE.create_time - timedelta(seconds=seconds)) == []
    left = {volume.volume_id for volume in lvm.inventory().volumes}
    assert left == ({SOURCE} if seconds == 0 else {SOURCE, VOLUME})


def test_a_failed_creation_leaves_what_another_call_is_adopting(
    simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logical volume with a volume's name may be on its way to another id: tagged, and not yet
    renamed."""
    lvm, host = simulated_backing.lvm, Host(simulated_backing)
    half_way = replace(HALF_MADE, adopted_name=volume_name(VOLUME))

    def taken(volume: Volume) -> Volume:
        raise NameTaken(volume.lv_name)

    with monkeypatch.context() as patched:
        patched.setattr(lvm, "create", taken)
        patched.setattr(lvm, "inventory", lambda: Inventory(volumes=[half_way]))
        with refused_with(grpc.StatusCode.FAILED_PRECONDITION):
            host.volumes.CreateVolume(
                volume_pb2.CreateVolumeRequest(volume_id=VOLUME, pool="thin", size_bytes=MEBIBYTE)
            )
    with refused_with(grpc.StatusCode.NOT_FOUND):
        host.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=VOLUME))
    host.close()
