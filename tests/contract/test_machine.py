"""Random histories: whatever is asked in whatever order, the daemon answers as the model does.

After every step the lists, the kernel's tree and LVM are compared with the model.
To add a call of the contract: a method of the model that judges it, a step in
tests/machine_*.py that makes it, a line in ACTIONS, and what must be seen of it in REACHED.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.answers import check_agreement
from tests.hosts import Host, SimulatedBacking
from tests.machine import VOLUME_IDS, Chance, Drawn, Rolled, Seen
from tests.machine_connections import MODES, ConnectionSteps
from tests.machine_volumes import POOLS, VolumeSteps
from tests.model import EXTENT_BYTES, ModelVolume

# How often: in histories of volumes, and in those of connections, which are all that the
# real host has the time for. They are no rules of their own, because Hypothesis leaves
# most rules out of most histories.
ACTIONS = {
    "create": (3, 2),
    "create_from": (5, 2),
    "extend": (4, 1),
    "delete": (5, 2),
    "snapshot": (5, 2),
    "delete_snapshot": (3, 2),
    "adopt": (4, 2),
    "release": (4, 2),
    "create_export": (2, 3),
    "remove_export": (2, 2),
    "initialize": (3, 9),
    "terminate": (2, 4),
    "terminate_logged_in": (1, 2),
    "log_in": (2, 6),
    "knock": (1, 3),
    "log_out": (0, 2),
    "reconcile": (2, 2),
    "restart": (2, 3),
}


def actions(place: int) -> list[str]:
    return [name for name, weights in ACTIONS.items() for _ in range(weights[place])]


VOLUMES, CONNECTIONS = actions(0), actions(1)


class Machine(VolumeSteps, ConnectionSteps):
    def __init__(self, host: Host, seen: Seen, holds_copies: bool, names: list[str]) -> None:
        super().__init__(host, seen, holds_copies)
        self._names = names

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.make_some(Drawn(data))

    def make_some(self, chance: Chance) -> None:
        """From nothing, most histories would be of calls for what does not exist."""
        for volume_id, pool in zip(VOLUME_IDS, POOLS, strict=False):
            self.make(volume_id, pool, EXTENT_BYTES, chance)
        self.export(chance.pick(VOLUME_IDS[:2]))

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        self.act(Drawn(data))

    def act(self, chance: Chance) -> None:
        getattr(self, chance.pick(self._names))(chance)

    # The daemon

    def restart(self, chance: Chance) -> None:
        self.host.backing.restart()
        which = "logged in" if self.inside() else ""
        if any(volume.copying for volume in self.model.volumes.values()):
            which = "copying"
        self.seen["restart", which] += 1

    def reconcile(self, chance: Chance) -> None:
        volume_id = chance.pick(("", *VOLUME_IDS))
        reason = self.model.reconcile(volume_id)
        request = host_pb2.ReconcileRequest(volume_id=volume_id)
        answer = self.ask("reconcile", reason, self.host.hosts.Reconcile, request)
        if answer is not None:
            exports = [one for one in self.model.volumes.values() if one.exported]
            assert answer.exports_checked == (1 if volume_id else len(exports))
            assert not answer.drifts and not answer.degraded_volume_ids

    # What must always be so

    @invariant()
    def all_agree_with_the_model(self) -> None:
        found = check_agreement(self.host, self.model.foreign)
        modelled = self.model.volumes.items()
        assert {one: shown_volume(volume) for one, volume in found.volumes.items()} == {
            one: modelled_volume(volume) for one, volume in modelled
        }
        assert {
            one: (snapshot.volume_id, snapshot.pool, snapshot.size_bytes)
            for one, snapshot in found.snapshots.items()
        } == {
            one: (snapshot.volume_id, snapshot.pool, snapshot.size_bytes)
            for one, snapshot in self.model.snapshots.items()
        }
        assert set(found.exports) == {one for one, volume in modelled if volume.exported}
        assert {
            place: (one.initiator, one.host, one.access_mode)
            for place, one in found.connections.items()
        } == {
            (volume_id, attachment_id): (self.initiator(one.host), one.host, MODES[one.mode])
            for volume_id, volume in modelled
            for attachment_id, one in volume.attachments.items()
        }

    @invariant()
    def sessions_are_those_of_the_attached(self) -> None:
        answer = self.host.exports.ListSessions(export_pb2.ListSessionsRequest())
        shown = {
            (one.volume_id, one.initiator): sorted(one.attachment_ids) for one in answer.sessions
        }
        assert shown == {
            (volume_id, self.initiator(host)): sorted(self.model.of_host(volume_id, host))
            for volume_id, host in self.inside()
        }

    def teardown(self) -> None:
        self.end_copies()
        for volume_id, host in self.inside():
            self.drop(volume_id, host)
        self.host.remove_everything()
        for lv_name in self.model.foreign:
            self.host.backing.remove_foreign(lv_name)
        assert check_agreement(self.host).volumes == {}


def shown_volume(volume: volume_pb2.Volume) -> tuple[object, ...]:
    source = None
    if volume.source_snapshot_id or volume.source_volume_id:
        kind = "snapshot" if volume.source_snapshot_id else "volume"
        source = (kind, volume.source_snapshot_id or volume.source_volume_id)
    copying = volume.state == volume_pb2.VOLUME_STATE_COPYING
    return volume.pool, volume.size_bytes, volume.multi_attach, source, copying


def modelled_volume(volume: ModelVolume) -> tuple[object, ...]:
    return volume.pool, volume.size_bytes, volume.multi_attach, volume.source, volume.copying


COMMON: Mapping[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}
SIMULATED = settings(max_examples=30, stateful_step_count=60, **COMMON)
# Hypothesis draws by what is simple, not evenly: what it left out is looked for with dice.
DICE_SEEDS, DICE_STEPS = range(60), 60
# Where LVM and iSCSI take their time, one history is all that there is time for. Its seed
# is one with which all of DONE_IN_LAB is come across.
LAB_SEED, LAB_STEPS, LAB_CHECK_EVERY = 25, 85, 5
# What a run must have come across, or it has shown little. Rarer things are met too,
# and each of them has a test of its own.
REACHED = {
    *(("create", reason) for reason in ("", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED")),
    *(("create from", reason) for reason in ("", "ALREADY_EXISTS", "NOT_FOUND", "COPYING")),
    ("filled", ""),
    *(("extend", reason) for reason in ("", "NOT_FOUND", "RESOURCE_EXHAUSTED")),
    *(("extend", reason) for reason in ("COPYING", "BEING_COPIED", "HAS_SNAPSHOTS")),
    *(("delete", reason) for reason in ("", "HAS_CONNECTIONS", "EXPORTED")),
    ("delete", "HAS_SNAPSHOTS"),
    ("delete filling", ""),
    *(("snapshot", reason) for reason in ("", "ALREADY_EXISTS", "NOT_FOUND", "COPYING")),
    ("snapshot", "INVALID_ARGUMENT"),
    ("delete snapshot", ""),
    *(("adopt", reason) for reason in ("", "ALREADY_EXISTS", "NOT_FOUND", "NOT_ADOPTABLE")),
    *(("release", reason) for reason in ("", "COPYING", "HAS_CONNECTIONS", "EXPORTED")),
    *(("release", reason) for reason in ("HAS_SNAPSHOTS", "NAME_TAKEN")),
    *(("create export", reason) for reason in ("", "NOT_FOUND", "COPYING")),
    *(("remove export", reason) for reason in ("", "HAS_CONNECTIONS")),
    *(("initialize", reason) for reason in ("", "NOT_FOUND", "NOT_EXPORTED", "ALREADY_EXISTS")),
    *(("initialize", reason) for reason in ("NOT_MULTI_ATTACH", "OTHER_ACCESS_MODE")),
    *(("initialize", which) for which in ("OTHER_CHAP", "mutual")),
    *(("terminate", reason) for reason in ("", "LOGGED_IN")),
    *(("knock", which) for which in ("of old", "of another")),
    *(("reconcile", reason) for reason in ("", "NOT_FOUND", "NOT_EXPORTED")),
    *(("restart", which) for which in ("", "logged in", "copying")),
    ("session closed", ""),
    ("log in", ""),
    ("log out", ""),
}
# In one history, each call is done at least.
DONE_IN_LAB = {
    *((name, "") for name in ("create", "create from", "filled", "extend", "delete")),
    *((name, "") for name in ("snapshot", "delete snapshot", "adopt", "release")),
    *((name, "") for name in ("create export", "remove export", "initialize", "terminate")),
    *((name, "") for name in ("log in", "log out", "session closed", "reconcile")),
    ("initialize", "mutual"),
    ("restart", "logged in"),
    ("knock", "of old"),
}


def run(host: Host, seen: Seen, names: list[str]) -> None:
    # It says that it wants a class; what it does with it is call it.
    make: Any = partial(Machine, host, seen, True, names)
    run_state_machine_as_test(make, settings=SIMULATED)


def roll(machine: Machine, seed: int, steps: int, every: int) -> None:
    """One history that the dice decide on, compared with the model every so many steps."""
    chance = Rolled(seed)
    machine.make_some(chance)
    for number in range(steps):
        machine.act(chance)
        if number % every == 0:
            machine.all_agree_with_the_model()
            machine.sessions_are_those_of_the_attached()
    machine.teardown()


def test_any_history_goes_as_in_the_model(simulated_backing: SimulatedBacking) -> None:
    host, seen = Host(simulated_backing), Seen()
    run(host, seen, CONNECTIONS)
    run(host, seen, VOLUMES)
    for seed in DICE_SEEDS:
        if set(+seen) >= REACHED:
            break
        names = (VOLUMES, CONNECTIONS)[seed % 2]
        roll(Machine(host, seen, True, names), seed, DICE_STEPS, every=1)
    host.close()
    print(f"{sum(seen.values())} steps: {dict(sorted(seen.items()))}")
    assert set(+seen) >= REACHED, f"never seen: {REACHED - set(+seen)}"


def test_one_history_goes_as_in_the_model(host: Host) -> None:
    seen = Seen()
    roll(Machine(host, seen, False, CONNECTIONS), LAB_SEED, LAB_STEPS, LAB_CHECK_EVERY)
    print(f"{sum(seen.values())} steps: {dict(sorted(seen.items()))}")
    assert set(+seen) >= DONE_IN_LAB, f"never seen: {DONE_IN_LAB - set(+seen)}"
