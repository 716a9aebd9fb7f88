"""Steps of random histories: exports, connections, sessions."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from targetd.api.v1 import export_pb2
from tests.hosts import INITIATORS, Host, properties_of
from tests.machine import HOSTS, VOLUME_IDS, Chance, Seen, Steps, mostly

ATTACHMENT_IDS = ("one", "two", "three")
MODES = {
    "unspecified": export_pb2.ACCESS_MODE_UNSPECIFIED,
    "rw": export_pb2.ACCESS_MODE_RW,
    "ro": export_pb2.ACCESS_MODE_RO,
}

# Most callers want to write; as many readers as writers would seldom agree on a mode.
MODE_CHOICES = ("rw", "rw", "rw", "unspecified", "ro")
MUTUAL_CHOICES = (False, False, True)


class ConnectionSteps(Steps):
    def __init__(self, host: Host, seen: Seen, holds_copies: bool) -> None:
        super().__init__(host, seen, holds_copies)
        # What was ever handed out for a volume, with the host that it was for.
        self._given: defaultdict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        # The secrets of each host that is attached, by (volume, host).
        self._secrets: dict[tuple[str, str], tuple[str, str]] = {}

    # Exports

    def create_export(self, chance: Chance) -> None:
        self.export(self.volume_id(chance))

    def export(self, volume_id: str) -> None:
        reason = self.model.create_export(volume_id)
        request = export_pb2.CreateExportRequest(volume_id=volume_id)
        self.ask("create export", reason, self.host.exports.CreateExport, request)

    def remove_export(self, chance: Chance) -> None:
        volume_id = self.volume_id(chance)
        reason = self.model.remove_export(volume_id)
        request = export_pb2.RemoveExportRequest(volume_id=volume_id)
        self.ask("remove export", reason, self.host.exports.RemoveExport, request)

    # Connections

    def initialize(self, chance: Chance) -> None:
        exported = [one for one, volume in self.model.volumes.items() if volume.exported]
        volume_id = chance.pick(mostly(exported, VOLUME_IDS))
        attachment_id = chance.pick(ATTACHMENT_IDS)
        host, mode, mutual = (
            chance.pick(HOSTS),
            chance.pick(MODE_CHOICES),
            chance.pick(MUTUAL_CHOICES),
        )
        enforced = "ro" if mode == "ro" else "rw"
        reason = self.model.initialize(volume_id, attachment_id, host, enforced, mutual)
        request = export_pb2.InitializeConnectionRequest(
            volume_id=volume_id,
            attachment_id=attachment_id,
            connector=self._connector(host, chance.pick((False, True))),
            access_mode=MODES[mode],
            mutual_chap=mutual,
        )
        method = self.host.exports.InitializeConnection
        answer = self.ask("initialize", reason, method, request)
        if answer is None:
            return
        given = properties_of(answer.properties)
        assert (given["access_mode"], given["attachment_id"]) == (enforced, attachment_id)
        assert bool(given["mutual_auth_username"]) == bool(given["mutual_auth_password"]) == mutual
        self.seen["initialize", "mutual"] += mutual
        self._check_secret(volume_id, host, given)

    def _check_secret(self, volume_id: str, host: str, given: dict[str, Any]) -> None:
        """One for all attachments of a host to a volume, and never one that was used before."""
        secrets, handed_out = secrets_of(given), self._given[volume_id]
        if (volume_id, host) not in self._secrets:
            old = {secret for _, before in handed_out for secret in secrets_of(before)}
            assert not old.intersection(filter(None, secrets))
            self._secrets[volume_id, host] = secrets
            handed_out.append((host, given))
        assert secrets == self._secrets[volume_id, host]

    def _connector(self, host: str, in_capitals: bool) -> export_pb2.Connector:
        name = self.initiator(host)
        return export_pb2.Connector(initiator=name.upper() if in_capitals else name, host=host)

    def terminate(self, chance: Chance) -> None:
        """One attachment, all of a host, or all."""
        whose = chance.pick((*ATTACHMENT_IDS, *HOSTS, "all"))
        self._terminate(chance, self.volume_id(chance), whose)

    def terminate_logged_in(self, chance: Chance) -> None:
        if self.inside():
            self._terminate(chance, *chance.pick(self.inside()))

    def _terminate(self, chance: Chance, volume_id: str, whose: str) -> None:
        going = {whose}
        request = export_pb2.TerminateConnectionRequest(
            volume_id=volume_id, refuse_if_logged_in=chance.pick((False, True))
        )
        if whose in ATTACHMENT_IDS:
            request.attachment_id = whose
        elif whose in HOSTS:
            request.connector.CopyFrom(self._connector(whose, chance.pick((False, True))))
            going = self.model.of_host(volume_id, whose)
        else:
            request.force = True
            going = set(ATTACHMENT_IDS)
        reason, closed = self.model.terminate(volume_id, going, request.refuse_if_logged_in)
        method = self.host.exports.TerminateConnection
        answer = self.ask("terminate", reason, method, request)
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
        self.seen["session closed", ""] += bool(closed)
        for host in closed:
            # Else it would go on knocking with what it was given.
            self.drop(volume_id, host)
        for host in set(HOSTS) - (volume.hosts() if volume else set()):
            self._secrets.pop((volume_id, host), None)

    # Sessions

    def log_in(self, chance: Chance) -> None:
        outside = [
            (volume_id, host)
            for volume_id, volume in sorted(self.model.volumes.items())
            for host in sorted(volume.hosts() - volume.sessions)
            if host in INITIATORS
        ]
        if not outside:
            return
        volume_id, host = chance.pick(outside)
        secrets = self._secrets[volume_id, host]
        (given,) = [one for _, one in self._given[volume_id] if secrets_of(one) == secrets]
        assert self.host.backing.log_in(host, given)
        self.model.volumes[volume_id].sessions.add(host)
        self.seen["log in", ""] += 1

    def knock(self, chance: Chance) -> None:
        """With what another host was given, or the same host before it was detached."""
        wrong = [
            (host, whose, given)
            for volume_id, volume in sorted(self.model.volumes.items())
            for whose, given in self._given[volume_id]
            for host in INITIATORS
            # Where no target is, there is nothing to knock at.
            if volume.exported
            and host not in volume.sessions
            and secrets_of(given) != self._secrets.get((volume_id, host))
        ]
        if not wrong:
            return
        host, whose, given = chance.pick(wrong)
        assert not self.host.backing.log_in(host, given)
        self.seen["knock", "of old" if host == whose else "of another"] += 1

    def log_out(self, chance: Chance) -> None:
        if not self.inside():
            return
        volume_id, host = chance.pick(self.inside())
        self.drop(volume_id, host)
        self.model.volumes[volume_id].sessions.remove(host)
        self.seen["log out", ""] += 1

    def inside(self) -> list[tuple[str, str]]:
        """Who is logged in to what."""
        return [
            (volume_id, host)
            for volume_id, volume in sorted(self.model.volumes.items())
            for host in sorted(volume.sessions)
        ]

    def drop(self, volume_id: str, host: str) -> None:
        # All that was handed out for a volume names the same target.
        self.host.backing.log_out(host, self._given[volume_id][-1][1])


def secrets_of(given: dict[str, Any]) -> tuple[str, str]:
    """The initiator's, and with mutual CHAP the target's."""
    return given["auth_password"], given["mutual_auth_password"]
