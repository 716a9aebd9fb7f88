"""Whether attachd's records, the grants of its storage hosts, the kernel and sessions agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from targetd_driver import TargetdDriver

from attachd.database.engine import Database
from attachd.database.records import Records
from attachd.model import Attachment, Volume
from attachd.transitions import (
    DERIVED,
    GRANTED,
    UNFINISHED,
    State,
    state_of,
    volume_status,
)
from lab.agreement import Client, disagreements, look
from lab.attach_client import wait_until
from lab.attach_slots import WITH_ACCESS, Held, Slot, Stage, all_held, log_in
from lab.attach_workers import SETTLED_SECONDS
from lab.attachd import AttachmentManager
from lab.errors import LabError, LoginFailed
from lab.initiator import Initiator
from lab.storage import StorageHost
from targetd.api.v1 import export_pb2

STATES = {
    Stage.RESERVED: State.RESERVED,
    Stage.CONNECTED: State.CONNECTED,
    Stage.ATTACHED: State.ATTACHED,
    Stage.BEGUN: State.ATTACHED,
    Stage.DISCONNECTED: State.DISCONNECTED,
}
# Of those that have access, and of those that have none any more, so many are tried on each node.
TRIED_MAX = 5


class Verifier:
    """Of an attachd whose storage hosts answer, and that nobody calls meanwhile."""

    def __init__(self, manager: AttachmentManager, storage: Mapping[str, StorageHost]) -> None:
        self._manager = manager
        self._storage = storage

    def problems(self) -> list[str]:
        """One line for each thing that is there without the others, or that hangs."""
        url = f"sqlite:///{self._manager.folder}/attachd.sqlite"
        with closing(Database(url)) as database:
            records = Records(database)
            try:
                wait_until(lambda: not list(self._hanging(records)), "all settled", SETTLED_SECONDS)
            except LabError:
                return list(self._hanging(records))
            return [line for name in self._storage for line in self._of_host(records, name)]

    def _hanging(self, records: Records) -> Iterator[str]:
        for host in self._storage:
            for volume in records.volumes_of_host(host):
                if volume.claim is not None:
                    yield f"volume {volume.id} is claimed for {volume.claim.purpose}"
                if volume.status not in DERIVED:
                    yield f"volume {volume.id} is {volume.status}: {volume.reason}"
            for one in records.attachments_of_host(host):
                if state_of(one) in UNFINISHED:
                    yield f"attachment {one.id} is {state_of(one)}: {one.reason}"

    def _of_host(self, records: Records, name: str) -> Iterator[str]:
        storage = self._storage[name]
        attachments = list(records.attachments_of_host(name))
        yield from _of_statuses(records.volumes_of_host(name), attachments)
        with TargetdDriver(storage.endpoint) as driver:
            yield from differing_grants(attachments, driver)
        with storage.channel() as channel:
            client = Client(channel)
            yield from disagreements(look(storage, client))
            yield from _of_sessions(client)

    def attachments(self) -> dict[str, list[Attachment]]:
        """By volume."""
        found: dict[str, list[Attachment]] = defaultdict(list)
        with closing(Database(f"sqlite:///{self._manager.folder}/attachd.sqlite")) as database:
            records = Records(database)
            for name in self._storage:
                for one in records.attachments_of_host(name):
                    found[one.volume_id].append(one)
        return found


def _of_statuses(volumes: Iterable[Volume], attachments: Iterable[Attachment]) -> Iterator[str]:
    for volume in volumes:
        own = [one for one in attachments if one.volume_id == volume.id]
        right = volume_status(volume.status, own)
        if volume.status is not right:
            yield f"volume {volume.id} is {volume.status}, and by its attachments {right}"


def differing_grants(attachments: Iterable[Attachment], driver: TargetdDriver) -> Iterator[str]:
    """One line for each access that is recorded and not granted, or the other way round."""
    wanted = {
        (one.volume_id, one.id): (str((one.connector or {})["initiator"]), str(one.attach_mode))
        for one in attachments
        if state_of(one) in GRANTED
    }
    there = {
        (one.volume_id, one.attachment_id): (one.initiator, one.access_mode)
        for one in driver.connections.list()
    }
    for place in sorted(wanted.keys() | there.keys()):
        if wanted.get(place) != there.get(place):
            yield f"{place}: recorded {wanted.get(place)}, granted {there.get(place)}"


def _of_sessions(client: Client) -> Iterator[str]:
    for session in client.exports.ListSessions(export_pb2.ListSessionsRequest()).sessions:
        if not session.attachment_ids:
            yield f"a session of {session.initiator} with {session.volume_id} has no attachment"


# What workers were told


def told_otherwise(
    slots: Sequence[Slot], attachments: Mapping[str, Sequence[Attachment]]
) -> Iterator[str]:
    """Records of the volumes of slots that are not what was acknowledged, both ways."""
    for volume_id in sorted({slot.volume_id for slot in slots}):
        own = [slot for slot in slots if slot.volume_id == volume_id]
        expected = sorted(
            (slot.held.id, str(STATES[slot.held.stage])) for slot in own if slot.held is not None
        )
        # Who calls by actions is not told ids.
        found = sorted(
            (one.id if any(slot.held and slot.held.id for slot in own) else "", state_of(one).value)
            for one in attachments.get(volume_id, ())
        )
        if expected != found:
            yield f"volume {volume_id}: told {expected}, recorded {found}"


def tried(slots: Sequence[Slot], targets: Collection[str]) -> list[str]:
    """Log in with what was acknowledged, and with what was taken away: one line for each that
    cannot, or can. Of ``targets``, which the kernel has: nobody gets in where there is none."""
    by_node: dict[str, list[tuple[Slot, Held]]] = defaultdict(list)
    for slot, held in all_held(slots):
        if held.stage in WITH_ACCESS and held.info is not None and held.peer is not None:
            by_node[held.peer.initiator.node.name].append((slot, held))
    refused = _taken_away(slots, targets)
    nodes = sorted(by_node.keys() | refused.keys())
    with ThreadPoolExecutor(max(1, len(nodes))) as threads:
        found = threads.map(
            lambda node: [*_let_in(by_node[node]), *_shut_out(refused.get(node, []))], nodes
        )
        return [line for lines in found for line in lines]


def _let_in(held: Iterable[tuple[Slot, Held]]) -> Iterator[str]:
    tries = 0
    for slot, one in held:
        assert one.peer is not None and one.info is not None
        if one.logged_in:
            if one.info["target_iqn"] not in one.peer.initiator.sessions():
                yield f"attachment {one.id} of {slot.volume_id}: its session is gone"
            continue
        if tries == TRIED_MAX:
            continue
        tries += 1
        try:
            disk = log_in(slot.volume_id, one)
            read_only = one.peer.initiator.node.run(["blockdev", "--getro", disk]).stdout.strip()
        except LabError as error:
            yield f"attachment {one.id} ({one.stage}) of {slot.volume_id}: {error}"
            continue
        finally:
            one.peer.log_out(one.info)
        if (read_only == "1") != (one.mode == "ro"):
            yield f"attachment {one.id}, {one.mode}: blockdev --getro says {read_only}"


Gone = tuple[Initiator, str, Mapping[str, object]]


def _taken_away(slots: Sequence[Slot], targets: Collection[str]) -> dict[str, list[Gone]]:
    """By node. Not of initiators that have access to the same volume again."""
    having = {
        (slot.volume_id, held.peer.iqn)
        for slot, held in all_held(slots)
        if held.stage in WITH_ACCESS and held.peer is not None
    }
    found: dict[str, list[Gone]] = defaultdict(list)
    for slot in slots:
        for peer, info in slot.gone[-2:]:
            if (slot.volume_id, peer.iqn) not in having and info["target_iqn"] in targets:
                found[peer.initiator.node.name].append((peer.initiator, peer.played, info))
    return {node: gone[:TRIED_MAX] for node, gone in found.items()}


def _shut_out(gone: Iterable[Gone]) -> Iterator[str]:
    for initiator, played, info in gone:
        try:
            initiator.login(info, played)
        except LoginFailed:
            continue
        initiator.drop(dict(info))
        yield f"{played or initiator.name} still logs in to volume {info.get('volume_id')}"
