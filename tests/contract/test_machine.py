"""Random histories: whatever is asked in whatever order, the daemon answers as the model does.

After every step the lists, the kernel's tree and LVM are compared with the model.
To add a call of the contract: a method of the model that judges it, one here that
makes it, a line in ACTIONS, and what must be seen of it in REACHED.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from targetd.api.v1 import export_pb2, volume_pb2
from tests.answers import answer_of, check_agreement
from tests.hosts import INITIATORS, MEBIBYTE, Host, LabBacking, properties_of
from tests.model import CODES, DONE, EXTENT_BYTES, HUGE_BYTES, Model

# Few of each, so that histories meet themselves.
VOLUME_IDS = tuple(str(uuid.UUID(int=number << 96 | 0x4000 << 64)) for number in (1, 2, 3))
ATTACHMENT_IDS = ("one", "two", "three")
# The last one is a name only: it is given access, and never logs in.
HOSTS = (*INITIATORS, "c")
MODES = {
    "unspecified": export_pb2.ACCESS_MODE_UNSPECIFIED,
    "rw": export_pb2.ACCESS_MODE_RW,
    "ro": export_pb2.ACCESS_MODE_RO,
}
# Of 26 steps. They are no rules of their own, because Hypothesis leaves most rules
# out of most histories, and the real host can afford a few long histories only.
ACTIONS = {
    "create": 2,
    "extend": 1,
    "delete": 2,
    "create_export": 2,
    "remove_export": 2,
    "initialize": 6,
    "terminate": 3,
    "terminate_logged_in": 1,
    "log_in": 3,
    "knock": 2,
    "log_out": 1,
    "restart": 1,
}

volume_ids = st.sampled_from(VOLUME_IDS)
attachment_ids = st.sampled_from(ATTACHMENT_IDS)
hosts = st.sampled_from(HOSTS)
# Most callers want to write; as many readers as writers would seldom agree on a mode.
modes = st.sampled_from(("rw", "rw", "rw", "unspecified", "ro"))
sizes = st.sampled_from((1, EXTENT_BYTES, 5 * MEBIBYTE, 6 * EXTENT_BYTES, HUGE_BYTES))
actions = st.sampled_from([name for name, weight in ACTIONS.items() for _ in range(weight)])

Seen = Counter[tuple[str, str]]


class Machine(RuleBasedStateMachine):
    def __init__(self, host: Host, seen: Seen) -> None:
        super().__init__()
        self.host = host
        self.model = Model()
        self._seen = seen
        # What was ever handed out for a volume, with the host that it was for.
        self._given: defaultdict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        # The secret of each host that is attached, by (volume, host).
        self._secrets: dict[tuple[str, str], str] = {}

    @initialize(pools=st.permutations(("thin", "thick")), multi_attach=st.booleans())
    def begin(self, pools: list[str], multi_attach: bool) -> None:
        """From nothing, most histories would be of calls for what does not exist."""
        for volume_id, pool, several in zip(
            VOLUME_IDS[:2], pools, (multi_attach, not multi_attach), strict=True
        ):
            self._create(volume_id, pool, EXTENT_BYTES, several)
            self._create_export(volume_id)

    @rule(action=actions, data=st.data())
    def step(self, action: str, data: st.DataObject) -> None:
        getattr(self, action)(data)

    def _ask(self, name: str, reason: str, method: Callable[..., Any], request: Any) -> Any:
        """Make a call that must be answered as the model has judged."""
        found, answer = answer_of(method, request)
        self._seen[name, found] += 1
        assert found == reason, f"{name}: {found or 'done'}, not {reason or 'done'}: {answer}"
        if reason == DONE:
            return answer
        assert answer.code() is CODES[reason]
        return None

    # Volumes

    def create(self, data: st.DataObject) -> None:
        self._create(
            data.draw(volume_ids),
            data.draw(st.sampled_from(("thin", "thick"))),
            data.draw(sizes),
            data.draw(st.booleans()),
        )

    def _create(self, volume_id: str, pool: str, size: int, multi_attach: bool) -> None:
        reason = self.model.create(volume_id, pool, size, multi_attach)
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id, pool=pool, size_bytes=size, multi_attach=multi_attach
        )
        self._ask("create", reason, self.host.volumes.CreateVolume, request)

    def extend(self, data: st.DataObject) -> None:
        volume_id, size = data.draw(volume_ids), data.draw(sizes)
        reason = self.model.extend(volume_id, size)
        request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size)
        self._ask("extend", reason, self.host.volumes.ExtendVolume, request)

    def delete(self, data: st.DataObject) -> None:
        volume_id = data.draw(volume_ids)
        volume = self.model.volumes.get(volume_id)
        reason = self.model.delete(volume_id)
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        answer = self._ask("delete", reason, self.host.volumes.DeleteVolume, request)
        if answer is not None:
            wiped = volume is not None and volume.pool == "thick"
            assert bool(answer.operation_id) == wiped

    # Exports

    def create_export(self, data: st.DataObject) -> None:
        self._create_export(data.draw(volume_ids))

    def _create_export(self, volume_id: str) -> None:
        reason = self.model.create_export(volume_id)
        request = export_pb2.CreateExportRequest(volume_id=volume_id)
        self._ask("create export", reason, self.host.exports.CreateExport, request)

    def remove_export(self, data: st.DataObject) -> None:
        volume_id = data.draw(volume_ids)
        reason = self.model.remove_export(volume_id)
        request = export_pb2.RemoveExportRequest(volume_id=volume_id)
        self._ask("remove export", reason, self.host.exports.RemoveExport, request)

    # Connections

    def initialize(self, data: st.DataObject) -> None:
        volume_id, attachment_id = data.draw(volume_ids), data.draw(attachment_ids)
        host, mode = data.draw(hosts), data.draw(modes)
        enforced = "ro" if mode == "ro" else "rw"
        reason = self.model.initialize(volume_id, attachment_id, host, enforced)
        request = export_pb2.InitializeConnectionRequest(
            volume_id=volume_id,
            attachment_id=attachment_id,
            connector=self._connector(host, data.draw(st.booleans())),
            access_mode=MODES[mode],
        )
        method = self.host.exports.InitializeConnection
        answer = self._ask("initialize", reason, method, request)
        if answer is None:
            return
        given = properties_of(answer.properties)
        assert (given["access_mode"], given["attachment_id"]) == (enforced, attachment_id)
        self._check_secret(volume_id, host, given)

    def _check_secret(self, volume_id: str, host: str, given: dict[str, Any]) -> None:
        """One for all attachments of a host to a volume, and never one that was used before."""
        secret, handed_out = given["auth_password"], self._given[volume_id]
        if (volume_id, host) not in self._secrets:
            assert secret not in {old["auth_password"] for _, old in handed_out}
            self._secrets[volume_id, host] = secret
            handed_out.append((host, given))
        assert secret == self._secrets[volume_id, host]

    def _connector(self, host: str, in_capitals: bool) -> export_pb2.Connector:
        name = self._initiator(host)
        return export_pb2.Connector(initiator=name.upper() if in_capitals else name, host=host)

    def _initiator(self, host: str) -> str:
        if host in INITIATORS:
            return self.host.backing.initiator(host)
        return f"iqn.2026-01.org.example.lab:{host}"

    def terminate(self, data: st.DataObject) -> None:
        """One attachment, all of a host, or all."""
        whose = data.draw(st.one_of(attachment_ids, hosts, st.just("all")))
        self._terminate(data, data.draw(volume_ids), whose)

    def terminate_logged_in(self, data: st.DataObject) -> None:
        if self._inside():
            self._terminate(data, *data.draw(st.sampled_from(self._inside())))

    def _terminate(self, data: st.DataObject, volume_id: str, whose: str) -> None:
        going = {whose}
        request = export_pb2.TerminateConnectionRequest(
            volume_id=volume_id, refuse_if_logged_in=data.draw(st.booleans())
        )
        if whose in ATTACHMENT_IDS:
            request.attachment_id = whose
        elif whose in HOSTS:
            request.connector.CopyFrom(self._connector(whose, data.draw(st.booleans())))
            going = self.model.of_host(volume_id, whose)
        else:
            request.force = True
            going = set(ATTACHMENT_IDS)
        reason, closed = self.model.terminate(volume_id, going, request.refuse_if_logged_in)
        method = self.host.exports.TerminateConnection
        answer = self._ask("terminate", reason, method, request)
        if answer is not None:
            self._check_terminated(volume_id, closed, answer)

    def _check_terminated(
        self, volume_id: str, closed: set[str], answer: export_pb2.TerminateConnectionResponse
    ) -> None:
        volume = self.model.volumes.get(volume_id)
        remaining = sorted(volume.attachments) if volume else []
        assert list(answer.remaining_attachment_ids) == remaining
        assert answer.shared == bool(remaining)
        assert answer.sessions_closed == bool(closed)
        self._seen["session closed", ""] += bool(closed)
        for host in closed:
            # Else it would go on knocking with what it was given.
            self._drop(volume_id, host)
        for host in set(HOSTS) - (volume.hosts() if volume else set()):
            self._secrets.pop((volume_id, host), None)

    # Sessions

    def log_in(self, data: st.DataObject) -> None:
        outside = [
            (volume_id, host)
            for volume_id, volume in sorted(self.model.volumes.items())
            for host in sorted(volume.hosts() - volume.sessions)
            if host in INITIATORS
        ]
        if not outside:
            return
        volume_id, host = data.draw(st.sampled_from(outside))
        secret = self._secrets[volume_id, host]
        (given,) = [one for _, one in self._given[volume_id] if one["auth_password"] == secret]
        assert self.host.backing.log_in(host, given)
        self.model.volumes[volume_id].sessions.add(host)
        self._seen["log in", ""] += 1

    def knock(self, data: st.DataObject) -> None:
        """With what another host was given, or the same host before it was detached."""
        wrong = [
            (host, whose, given)
            for volume_id, volume in sorted(self.model.volumes.items())
            for whose, given in self._given[volume_id]
            for host in INITIATORS
            # Where no target is, there is nothing to knock at.
            if volume.exported
            and host not in volume.sessions
            and given["auth_password"] != self._secrets.get((volume_id, host))
        ]
        if not wrong:
            return
        host, whose, given = data.draw(st.sampled_from(wrong))
        assert not self.host.backing.log_in(host, given)
        self._seen["knock", "of old" if host == whose else "of another"] += 1

    def log_out(self, data: st.DataObject) -> None:
        if not self._inside():
            return
        volume_id, host = data.draw(st.sampled_from(self._inside()))
        self._drop(volume_id, host)
        self.model.volumes[volume_id].sessions.remove(host)
        self._seen["log out", ""] += 1

    def _inside(self) -> list[tuple[str, str]]:
        """Who is logged in to what."""
        return [
            (volume_id, host)
            for volume_id, volume in sorted(self.model.volumes.items())
            for host in sorted(volume.sessions)
        ]

    def _drop(self, volume_id: str, host: str) -> None:
        # All that was handed out for a volume names the same target.
        self.host.backing.log_out(host, self._given[volume_id][-1][1])

    # The daemon

    def restart(self, data: st.DataObject) -> None:
        self.host.backing.restart()
        self._seen["restart", "logged in" if self._inside() else ""] += 1

    # What must always be so

    @invariant()
    def all_agree_with_the_model(self) -> None:
        found = check_agreement(self.host)
        shown = {
            volume.volume_id: (volume.pool, volume.size_bytes, volume.multi_attach)
            for volume in found.volumes.values()
        }
        modelled = self.model.volumes.items()
        assert shown == {
            one: (volume.pool, volume.size_bytes, volume.multi_attach) for one, volume in modelled
        }
        assert set(found.exports) == {one for one, volume in modelled if volume.exported}
        assert {
            place: (one.initiator, one.host, one.access_mode)
            for place, one in found.connections.items()
        } == {
            (volume_id, attachment_id): (self._initiator(one.host), one.host, MODES[one.mode])
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
            (volume_id, self._initiator(host)): sorted(self.model.of_host(volume_id, host))
            for volume_id, host in self._inside()
        }

    def teardown(self) -> None:
        for volume_id, host in self._inside():
            self._drop(volume_id, host)
        self.host.remove_everything()
        assert check_agreement(self.host).volumes == {}


COMMON: Mapping[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}
SIMULATED = settings(max_examples=80, stateful_step_count=50, **COMMON)
# Where each step costs a hundred times as much, a failure is shown as it was found.
LAB = settings(max_examples=2, stateful_step_count=50, phases=[Phase.generate], **COMMON)
# What a run must have come across, or it has shown little.
REACHED = {
    *(("create", reason) for reason in ("", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED")),
    *(("extend", reason) for reason in ("", "NOT_FOUND", "RESOURCE_EXHAUSTED")),
    *(("delete", reason) for reason in ("", "HAS_CONNECTIONS", "EXPORTED")),
    *(("create export", reason) for reason in ("", "NOT_FOUND")),
    *(("remove export", reason) for reason in ("", "HAS_CONNECTIONS")),
    *(("initialize", reason) for reason in ("", "NOT_FOUND", "NOT_EXPORTED", "ALREADY_EXISTS")),
    *(("initialize", reason) for reason in ("NOT_MULTI_ATTACH", "OTHER_ACCESS_MODE")),
    *(("terminate", reason) for reason in ("", "LOGGED_IN")),
    *(("knock", which) for which in ("of old", "of another")),
    *(("restart", which) for which in ("", "logged in")),
    ("session closed", ""),
    ("log in", ""),
    ("log out", ""),
}


def test_any_history_goes_as_in_the_model(host: Host) -> None:
    seen: Seen = Counter()
    in_lab = isinstance(host.backing, LabBacking)
    # It says that it wants a class; what it does with it is call it.
    make: Any = partial(Machine, host, seen)
    run_state_machine_as_test(make, settings=LAB if in_lab else SIMULATED)
    print(f"{sum(seen.values())} steps: {dict(sorted(seen.items()))}")
    if not in_lab:
        assert set(seen) >= REACHED, f"never seen: {REACHED - set(seen)}"
