"""Random histories: whatever is asked in whatever order, the daemon answers as the model does.

After every step the lists, the kernel's tree and LVM are compared with the model.
To add a call to the contract: a method to the model that judges it, a rule here.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
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
SIZES = (1, EXTENT_BYTES, 5 * MEBIBYTE, 6 * EXTENT_BYTES, HUGE_BYTES)

volume_ids = st.sampled_from(VOLUME_IDS)
attachment_ids = st.sampled_from(ATTACHMENT_IDS)
hosts = st.sampled_from(HOSTS)
# Most callers want to write; as many readers as writers would seldom agree on a mode.
modes = st.sampled_from(("rw", "rw", "unspecified", "ro"))
sizes = st.sampled_from(SIZES)

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

    def _ask(self, name: str, reason: str, method: Callable[..., Any], request: Any) -> Any:
        """Make a call that must be answered as the model has judged."""
        found, answer = answer_of(method, request)
        self._seen[name, found] += 1
        assert found == reason, f"{name}: {found or 'done'}, not {reason or 'done'}: {answer}"
        if reason == DONE:
            return answer
        assert answer.code() is CODES[reason]
        return None

    @initialize(multi_attach=st.lists(st.booleans(), min_size=3, max_size=3))
    def begin(self, multi_attach: list[bool]) -> None:
        """From nothing, most histories would be of calls for what does not exist."""
        for volume_id, several, pool in zip(
            VOLUME_IDS, multi_attach, ("thin", "thick", "thin"), strict=True
        ):
            self.create(volume_id, pool, EXTENT_BYTES, several)
            self.create_export(volume_id)

    # Volumes

    @rule(volume_id=volume_ids, pool=st.sampled_from(("thin", "thick")), size=sizes,
          multi_attach=st.booleans())  # fmt: skip
    def create(self, volume_id: str, pool: str, size: int, multi_attach: bool) -> None:
        reason = self.model.create(volume_id, pool, size, multi_attach)
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id, pool=pool, size_bytes=size, multi_attach=multi_attach
        )
        answer = self._ask("create", reason, self.host.volumes.CreateVolume, request)
        if answer is not None:
            assert answer.size_bytes == self.model.volumes[volume_id].size_bytes

    @rule(volume_id=volume_ids, size=sizes)
    def extend(self, volume_id: str, size: int) -> None:
        reason = self.model.extend(volume_id, size)
        request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size)
        self._ask("extend", reason, self.host.volumes.ExtendVolume, request)

    @rule(volume_id=volume_ids)
    def delete(self, volume_id: str) -> None:
        volume = self.model.volumes.get(volume_id)
        reason = self.model.delete(volume_id)
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        answer = self._ask("delete", reason, self.host.volumes.DeleteVolume, request)
        if answer is not None:
            wiped = volume is not None and volume.pool == "thick"
            assert bool(answer.operation_id) == wiped

    # Exports

    @rule(volume_id=volume_ids)
    def create_export(self, volume_id: str) -> None:
        reason = self.model.create_export(volume_id)
        request = export_pb2.CreateExportRequest(volume_id=volume_id)
        self._ask("create export", reason, self.host.exports.CreateExport, request)

    @rule(volume_id=volume_ids)
    def remove_export(self, volume_id: str) -> None:
        reason = self.model.remove_export(volume_id)
        request = export_pb2.RemoveExportRequest(volume_id=volume_id)
        self._ask("remove export", reason, self.host.exports.RemoveExport, request)

    # Connections

    @rule(volume_id=volume_ids, attachment_id=attachment_ids, host=hosts, mode=modes,
          in_capitals=st.booleans())  # fmt: skip
    def initialize_connection(
        self, volume_id: str, attachment_id: str, host: str, mode: str, in_capitals: bool
    ) -> None:
        enforced = "ro" if mode == "ro" else "rw"
        reason = self.model.initialize(volume_id, attachment_id, host, enforced)
        request = export_pb2.InitializeConnectionRequest(
            volume_id=volume_id,
            attachment_id=attachment_id,
            connector=self._connector(host, in_capitals),
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
        secret = given["auth_password"]
        known = self._secrets.setdefault((volume_id, host), secret)
        assert secret == known
        earlier = {old["auth_password"] for _, old in self._given[volume_id]}
        if secret not in earlier:
            self._given[volume_id].append((host, given))
        assert list(self._secrets.values()).count(secret) == 1

    def _connector(self, host: str, in_capitals: bool = False) -> export_pb2.Connector:
        name = self._initiator(host)
        return export_pb2.Connector(initiator=name.upper() if in_capitals else name, host=host)

    def _initiator(self, host: str) -> str:
        if host in INITIATORS:
            return self.host.backing.initiator(host)
        return f"iqn.2026-01.org.example.lab:{host}"

    @rule(volume_id=volume_ids, whose=st.one_of(attachment_ids, hosts, st.just("all")),
          refuse=st.booleans(), in_capitals=st.booleans())  # fmt: skip
    def terminate(self, volume_id: str, whose: str, refuse: bool, in_capitals: bool) -> None:
        request = export_pb2.TerminateConnectionRequest(
            volume_id=volume_id, refuse_if_logged_in=refuse, force=whose == "all"
        )
        going = {whose}
        if whose in ATTACHMENT_IDS:
            request.attachment_id = whose
        elif whose in HOSTS:
            request.connector.CopyFrom(self._connector(whose, in_capitals))
            going = self.model.of_host(volume_id, whose)
        else:
            going = set(ATTACHMENT_IDS)
        self._terminate(request, going)

    def _terminate(self, request: export_pb2.TerminateConnectionRequest, going: set[str]) -> None:
        volume_id = request.volume_id
        reason, closed = self.model.terminate(volume_id, going, request.refuse_if_logged_in)
        method = self.host.exports.TerminateConnection
        answer = self._ask("terminate", reason, method, request)
        if answer is None:
            return
        volume = self.model.volumes.get(volume_id)
        remaining = sorted(volume.attachments) if volume else []
        assert list(answer.remaining_attachment_ids) == remaining
        assert answer.shared == bool(remaining)
        assert answer.sessions_closed == bool(closed)
        self._seen["session closed", ""] += bool(closed)
        for host in closed:
            # Else it would go on knocking with what it was given.
            self.host.backing.log_out(host, self._given[volume_id][-1][1])
        for host in set(HOSTS) - (volume.hosts() if volume else set()):
            self._secrets.pop((volume_id, host), None)

    # Sessions

    @precondition(lambda self: self._outside())
    @rule(data=st.data())
    def log_in(self, data: st.DataObject) -> None:
        volume_id, host = data.draw(st.sampled_from(self._outside()))
        secret = self._secrets[volume_id, host]
        (given,) = [one for _, one in self._given[volume_id] if one["auth_password"] == secret]
        assert self.host.backing.log_in(host, given)
        self.model.volumes[volume_id].sessions.add(host)
        self._seen["log in", ""] += 1

    def _outside(self) -> list[tuple[str, str]]:
        """Who may log in to what, and has not."""
        return [
            (volume_id, host)
            for volume_id, volume in sorted(self.model.volumes.items())
            for host in sorted(volume.hosts() - volume.sessions)
            if host in INITIATORS
        ]

    @precondition(lambda self: self._wrong_keys())
    @rule(data=st.data())
    def knock(self, data: st.DataObject) -> None:
        """With what another host was given, or the same host before it was detached."""
        host, whose, given = data.draw(st.sampled_from(self._wrong_keys()))
        assert not self.host.backing.log_in(host, given)
        self._seen["knock", "of old" if host == whose else "of another"] += 1

    def _wrong_keys(self) -> list[tuple[str, str, dict[str, Any]]]:
        # Where no target is, there is nothing to knock at.
        return [
            (host, whose, given)
            for volume_id, volume in sorted(self.model.volumes.items())
            for whose, given in self._given[volume_id]
            for host in INITIATORS
            if volume.exported
            and host not in volume.sessions
            and given["auth_password"] != self._secrets.get((volume_id, host))
        ]

    @precondition(lambda self: self._inside())
    @rule(data=st.data())
    def log_out(self, data: st.DataObject) -> None:
        volume_id, host = data.draw(st.sampled_from(self._inside()))
        self.host.backing.log_out(host, self._given[volume_id][-1][1])
        self.model.volumes[volume_id].sessions.remove(host)
        self._seen["log out", ""] += 1

    def _inside(self) -> list[tuple[str, str]]:
        return [
            (volume_id, host)
            for volume_id, volume in sorted(self.model.volumes.items())
            for host in sorted(volume.sessions)
        ]

    # The daemon

    @precondition(lambda self: self.model.volumes)
    @rule()
    def restart(self) -> None:
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
            for volume_id, volume in self.model.volumes.items()
            for host in volume.sessions
        }

    def teardown(self) -> None:
        for volume_id, host in self._inside():
            self.host.backing.log_out(host, self._given[volume_id][-1][1])
        self.host.remove_everything()
        assert check_agreement(self.host).volumes == {}


COMMON: Mapping[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}
SIMULATED = settings(max_examples=100, stateful_step_count=60, **COMMON)
# Where each step costs a hundred times as much, a failure is shown as it was found.
LAB = settings(max_examples=3, stateful_step_count=50, phases=[Phase.generate], **COMMON)
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
    run_state_machine_as_test(lambda: Machine(host, seen), settings=LAB if in_lab else SIMULATED)
    print(f"{sum(seen.values())} steps: {dict(sorted(seen.items()))}")
    if not in_lab:
        assert set(seen) >= REACHED, f"never seen: {REACHED - set(seen)}"
