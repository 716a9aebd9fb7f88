"""Threads that attach and detach all the while, each on slots of its own.

A call that has no answer, or whose storage host had none, is looked up until it has settled; what
it may then have become is known, and anything else ends the storm.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lab.attach_client import AttachClient, Failed, NoAnswer, wait_until
from lab.attach_slots import NONE, WITH_ACCESS, Held, Peer, Slot, Stage, Tally, log_in
from lab.errors import LabError

# From the kill of a daemon to the end of what was cut off; every retry is within seconds.
SETTLED_SECONDS = 90.0
LOGIN = 0.35
LOGOUT_FIRST = 0.5


class Worker:
    """By the attachment calls, on slots of its own."""

    def __init__(
        self, rng: random.Random, slots: Sequence[Slot], client: AttachClient, tally: Tally
    ) -> None:
        self._rng = rng
        self._slots = slots
        self._client = client
        self._tally = tally

    def run(self, stop: threading.Event) -> None:
        """Raises LabError for what must not be."""
        while not stop.is_set():
            self.step(self._rng.choice(self._slots))

    def step(self, slot: Slot) -> None:
        held = slot.held
        if held is None:
            self._any(slot, (self._reserve, 1), (self._attach, 2))
        elif held.stage is Stage.RESERVED:
            self._any(slot, (self._connect, 3), (self._delete, 1))
        elif held.info is None:
            self._renew(slot, held)
        elif held.stage is Stage.CONNECTED:
            self._any(slot, (self._complete, 4), (self._renew, 1), (self._delete, 1))
        else:
            self._any(slot, (self._delete, 4), (self._move, 2), (self._renew, 1))

    def _any(self, slot: Slot, *choices: tuple[Callable[[Slot, Any], None], float]) -> None:
        doings, weights = zip(*choices, strict=True)
        self._rng.choices(doings, weights)[0](slot, slot.held)

    def _do(
        self,
        slot: Slot,
        kind: str,
        request: Callable[[], Any],
        after: Callable[[Any], Held | None],
        *possible: Stage | None,
    ) -> None:
        """``after`` makes of an answer what is held then; without one it is one of those."""
        why = "no answer"
        try:
            answer = request()
        except Failed as error:
            if error.is_busy:
                self._tally.count_busy()
                return
            if not error.is_uncertain:
                raise
            why = str(error.code)
        except NoAnswer:
            pass
        else:
            self._tally.acknowledge(kind)
            slot.held = after(answer)
            return
        self._tally.fail()
        slot.held = self._settled(slot, kind)
        stage = slot.held.stage if slot.held else None
        if stage not in possible:
            raise LabError(f"{kind} of {slot.volume_id}, {why}: is {stage} then")
        self._tally.found(kind, why, stage)

    # What becomes of a call that was cut off

    def _settled(self, slot: Slot, kind: str) -> Held | None:
        """Raises LabError when it hangs between two statuses."""
        found: list[Mapping[str, Any]] = []

        def settled() -> bool:
            try:
                found[:] = self._look(slot)
            except NoAnswer:
                return False
            except Failed as error:
                if not error.is_uncertain:
                    raise
                return False
            return all(self._is_settled(one) for one in found)

        wait_until(settled, f"{kind} of volume {slot.volume_id}: settled", SETTLED_SECONDS)
        if len(found) > 1:
            raise LabError(f"{kind} of volume {slot.volume_id}: {len(found)} attachments")
        return self._held(slot, found[0]) if found else None

    def _look(self, slot: Slot) -> list[Mapping[str, Any]]:
        return self._client.attachments(volume_id=slot.volume_id, instance_id=slot.instance)

    @staticmethod
    def _is_settled(one: Mapping[str, Any]) -> bool:
        status = one["status"]
        return status in ("reserved", "attached") or (
            status == "attaching" and bool(one["connection_info"])
        )

    @staticmethod
    def _held(slot: Slot, one: Mapping[str, Any]) -> Held:
        stage = Stage.CONNECTED if one["status"] == "attaching" else Stage(one["status"])
        held = slot.held or Held(one["id"], stage)
        held = replace(held, id=one["id"], stage=stage, mode=one["attach_mode"])
        return replace(held, info=None, peer=None) if stage is Stage.RESERVED else held

    # The calls

    def _reserve(self, slot: Slot, held: None) -> None:
        slot.instance, mode = str(uuid.uuid4()), self._rng.choice(slot.modes)
        self._do(
            slot,
            "reserve",
            lambda: self._client.create(slot.volume_id, instance_uuid=slot.instance, mode=mode),
            lambda made: Held(made["id"], Stage.RESERVED, mode),
            NONE,
            Stage.RESERVED,
        )

    def _attach(self, slot: Slot, held: None) -> None:
        slot.instance, mode = str(uuid.uuid4()), self._rng.choice(slot.modes)
        peer = self._rng.choice(slot.peers)
        self._do(
            slot,
            "attach",
            lambda: self._client.create(
                slot.volume_id, instance_uuid=slot.instance, connector=peer.connector, mode=mode
            ),
            lambda made: Held(made["id"], Stage.CONNECTED, mode, peer, made["connection_info"]),
            NONE,
            Stage.CONNECTED,
        )
        self._by(slot, peer)

    def _connect(self, slot: Slot, held: Held) -> None:
        peer = self._rng.choice(slot.peers)
        self._do(
            slot,
            "connect",
            lambda: self._client.update(held.id, peer.connector),
            lambda made: replace(
                held, stage=Stage.CONNECTED, peer=peer, info=made["connection_info"]
            ),
            Stage.RESERVED,
            Stage.CONNECTED,
        )
        self._by(slot, peer)

    @staticmethod
    def _by(slot: Slot, peer: Peer) -> None:
        """Whose it is, where only the record was left to tell of it."""
        if slot.held is not None and slot.held.stage is Stage.CONNECTED:
            slot.held = replace(slot.held, peer=peer)

    def _renew(self, slot: Slot, held: Held) -> None:
        """The same answer again."""
        assert held.peer is not None
        connector, told = held.peer.connector, held.info
        self._do(
            slot,
            "renew",
            lambda: self._client.update(held.id, connector),
            lambda made: replace(held, info=made["connection_info"]),
            held.stage,
        )
        if told is not None and slot.held is not None and slot.held.info != told:
            raise LabError(f"attachment {held.id}: not the same answer again")

    def _complete(self, slot: Slot, held: Held) -> None:
        self._do(
            slot,
            "complete",
            lambda: self._client.complete(held.id),
            lambda _: replace(held, stage=Stage.ATTACHED),
            Stage.CONNECTED,
            Stage.ATTACHED,
        )
        self._perhaps_log_in(slot)

    def _move(self, slot: Slot, held: Held) -> None:
        assert held.peer is not None
        others = [peer for peer in slot.peers if peer.iqn != held.peer.iqn]
        if not others:
            self._delete(slot, held)
            return
        peer = self._rng.choice(others)
        self._do(
            slot,
            "move",
            lambda: self._client.update(held.id, peer.connector),
            lambda made: replace(
                held,
                stage=Stage.CONNECTED,
                peer=peer,
                info=made["connection_info"],
                logged_in=False,
            ),
            # Not begun; undone, when the old access had gone already; done.
            Stage.ATTACHED,
            Stage.RESERVED,
            Stage.CONNECTED,
        )
        left = slot.held
        if left is None or left.stage is not Stage.ATTACHED:
            self._let_go(slot, held)
        if left is not None and left.stage is Stage.CONNECTED:
            info = left.info if left.info != held.info else None
            slot.held = replace(left, peer=peer, info=info, logged_in=False)

    def _delete(self, slot: Slot, held: Held) -> None:
        if held.logged_in and self._rng.random() < LOGOUT_FIRST:
            self._log_out(held)
            slot.held = held = replace(held, logged_in=False)
        self._do(
            slot,
            "delete",
            lambda: self._client.delete(held.id),
            lambda _: None,
            held.stage,
            NONE,
        )
        if slot.held is None:
            self._let_go(slot, held)

    # On the attaching host

    def _perhaps_log_in(self, slot: Slot) -> None:
        held = slot.held
        wanted = slot.may_log_in and self._rng.random() < LOGIN
        if not wanted or held is None or held.info is None or held.stage is not Stage.ATTACHED:
            return
        log_in(slot.volume_id, held)
        self._tally.count_login()
        slot.held = replace(held, logged_in=True)

    @staticmethod
    def _log_out(held: Held) -> None:
        assert held.peer is not None and held.info is not None
        held.peer.log_out(held.info)

    def _let_go(self, slot: Slot, held: Held) -> None:
        """Its access has gone, with a session if there was one."""
        if held.logged_in:
            self._log_out(held)
        if held.peer is not None and held.info is not None:
            slot.gone.append((held.peer, held.info))


class ActionWorker(Worker):
    """By the volume's actions, which know no attachment ids: one attachment for each volume."""

    def step(self, slot: Slot) -> None:
        held = slot.held
        stage = held.stage if held else None
        if held is not None and stage in WITH_ACCESS and held.info is None:
            self._initialize(slot, held)
        elif stage is None:
            self._act(slot, "reserve", Stage.RESERVED)
        elif stage is Stage.RESERVED:
            self._any(slot, (self._initialize, 4), (self._unreserve, 1))
        elif stage is Stage.CONNECTED:
            self._any(slot, (self._used, 4), (self._unreserve, 1), (self._terminate, 1))
        elif stage is Stage.ATTACHED:
            self._act(slot, "begin_detaching", Stage.BEGUN)
        elif stage is Stage.BEGUN:
            self._any(slot, (self._terminate, 3), (self._roll, 1))
        else:
            self._act(slot, "detach", NONE)

    def _act(
        self, slot: Slot, action: str, after: Stage | None, *more: Stage | None, **content: Any
    ) -> None:
        """``after`` is what an answer means; without one it may also be one of ``more``."""
        held = slot.held
        self._do(
            slot,
            action,
            lambda: self._client.act(slot.volume_id, f"os-{action}", **content),
            lambda _: self._staged(held, after),
            held.stage if held else None,
            after,
            *more,
        )
        left = slot.held.stage if slot.held else None
        if held is not None and held.stage in WITH_ACCESS and left not in WITH_ACCESS:
            self._let_go(slot, held)

    @staticmethod
    def _staged(held: Held | None, stage: Stage | None) -> Held | None:
        if stage is None:
            return None
        if held is None or stage not in WITH_ACCESS:
            return Held("", stage)
        return replace(held, stage=stage)

    def _unreserve(self, slot: Slot, held: Held) -> None:
        self._act(slot, "unreserve", NONE)

    def _roll(self, slot: Slot, held: Held) -> None:
        self._act(slot, "roll_detaching", Stage.ATTACHED)

    def _used(self, slot: Slot, held: Held) -> None:
        assert held.peer is not None
        host = held.peer.connector["host"]
        self._act(slot, "attach", Stage.ATTACHED, mountpoint="/dev/vdb", host_name=host)

    def _terminate(self, slot: Slot, held: Held) -> None:
        assert held.peer is not None
        after = Stage.DISCONNECTED if held.stage is Stage.BEGUN else Stage.RESERVED
        self._act(slot, "terminate_connection", after, connector=held.peer.connector)

    def _initialize(self, slot: Slot, held: Held) -> None:
        peer = held.peer or self._rng.choice(slot.peers)
        renewed: Stage = held.stage if held.stage in WITH_ACCESS else Stage.CONNECTED
        self._do(
            slot,
            "initialize_connection",
            lambda: self._client.act(
                slot.volume_id, "os-initialize_connection", connector=peer.connector
            ),
            lambda made: replace(
                held, stage=renewed, peer=peer, info=made["connection_info"]["data"]
            ),
            held.stage,
            Stage.CONNECTED,
        )
        self._by(slot, peer)

    # What becomes of a call that was cut off

    def _look(self, slot: Slot) -> list[Mapping[str, Any]]:
        volume = self._client.volume(slot.volume_id)
        found = self._client.attachments(volume_id=slot.volume_id)
        return [{**one, "volume_status": volume["status"]} for one in found]

    @staticmethod
    def _is_settled(one: Mapping[str, Any]) -> bool:
        # While access is being taken away the information is there; then it waits for detach.
        waits = one["status"] == "detaching" and not one["connection_info"]
        return waits or Worker._is_settled(one)

    @staticmethod
    def _held(slot: Slot, one: Mapping[str, Any]) -> Held:
        if one["status"] == "detaching":
            return Held("", Stage.DISCONNECTED)
        held = Worker._held(slot, one)
        begun = one["status"] == "attached" and one["volume_status"] == "detaching"
        return replace(held, id="", stage=Stage.BEGUN if begun else held.stage)
