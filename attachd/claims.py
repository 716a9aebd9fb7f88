"""One operator per volume, over all threads and all processes that share the records.

Whoever changes a volume, its attachments or its snapshots holds the volume's claim: a turn
among the threads of this process, and columns of the volume's record among processes. A claim
ends by itself, since its holder may die; what that one had begun is then somebody else's to
go on with.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import update

from attachd.clock import Clock, now
from attachd.database.records import Changes, Records
from attachd.database.schema import NO_CLAIM, volumes
from attachd.errors import Busy, NotFound, OutcomeUnknown, RecordsUnavailable
from attachd.model import Attachment, Caller, Volume, VolumeStatus

# Of one operation to a storage host: a move that is refused, and undone.
CALLS_MAX = 5
MARGIN_SECONDS = 30.0


def hold_seconds(timeout_seconds: float) -> float:
    """Longer than any operation takes whose calls to a storage host have that deadline."""
    return CALLS_MAX * timeout_seconds + MARGIN_SECONDS


HOLD_SECONDS = hold_seconds(30.0)
WAIT_SECONDS = 30.0
# Threads of this process that wait for one volume: one that hangs is not to hold them all.
WAITING_MAX = 16
# Between two looks at a claim of another process: doubled each time.
LOOK_SECONDS, LOOK_SECONDS_MAX = 0.005, 0.25


class Step:
    """One transaction on a volume that is claimed.

    ``volume`` and ``attachments`` are as the records have them, and are kept up with what is
    changed here; what is changed is written at the end of the transaction, or not at all.
    """

    def __init__(self, changes: Changes, volume: Volume) -> None:
        # For what else belongs to the transaction.
        self.changes = changes
        self.volume = volume
        self.attachments = {one.id: one for one in volume.attachments}
        # Columns of the volume's record.
        self.values: dict[str, Any] = {}
        # Set in a first transaction: nothing is left to do after it, so no claim is taken.
        self.is_last = False

    def attachment(self, attachment_id: str) -> Attachment:
        """Raises NotFound."""
        found = self.attachments.get(attachment_id)
        if found is None:
            raise NotFound("Attachment", attachment_id)
        return found

    def set_status(self, status: VolumeStatus, reason: str = "") -> None:
        """Of the volume."""
        if (status, reason) != (self.volume.status, self.volume.reason):
            self.values |= {"status": status, "reason": reason}
            self.volume = replace(self.volume, status=status, reason=reason)

    def add(self, attachment: Attachment) -> Attachment:
        self.changes.add_attachment(attachment)
        self.attachments[attachment.id] = attachment
        return attachment

    def replace(self, attachment: Attachment, sealed_secrets: bytes | None = None) -> Attachment:
        """Its secrets stay if it has connection_info, and none are given."""
        before = self.attachments[attachment.id]
        self.changes.replace_attachment(before, attachment, sealed_secrets)
        self.attachments[attachment.id] = attachment
        return attachment

    def remove(self, attachment_id: str) -> None:
        self.changes.remove_attachment(attachment_id)
        del self.attachments[attachment_id]

    def remove_volume(self) -> None:
        self.values["delete_time"] = self.changes.time

    def write(self) -> None:
        """What is changed of the volume."""
        if self.values:
            self.changes.update_volume(self.volume.id, **self.values)

    def remaining(self) -> tuple[Attachment, ...]:
        return tuple(self.attachments.values())


class Claim:
    """A turn at one volume, from its first transaction to its last."""

    def __init__(
        self,
        claims: Claims,
        volume_id: str,
        purpose: str,
        caller: Caller | None,
        wait_seconds: float,
    ) -> None:
        self._claims = claims
        self._volume_id = volume_id
        self._purpose = purpose
        self._caller = caller
        self._wait_seconds = wait_seconds
        # Unique, so that nobody takes another's claim for its own.
        self._holder = f"{claims.name}/{claims.instance}/{uuid.uuid4()}"
        self._volume: Volume | None = None

    @contextmanager
    def begin(self) -> Iterator[Step]:
        """The first transaction: takes the claim, unless its block raises something.

        Waits while another process has it. Raises NotFound, also for another project's volume;
        Busy; RecordsUnavailable.
        """
        with self._claims.opened(self._volume_id, self._caller, self._wait_seconds) as step:
            yield step
            if step.is_last:
                step.write()
                return
            step.changes.update_volume(self._volume_id, **step.values, **self._taken(step))
        self._volume = replace(step.volume, attachments=step.remaining())

    @contextmanager
    def begin_new(self, volume: Volume) -> Iterator[Step]:
        """As ``begin``, of a volume that gets its record with it. Raises RecordsUnavailable."""
        with self._claims.records.writing() as changes:
            step = Step(changes, volume)
            yield step
            changes.add_volume(step.volume)
            changes.update_volume(self._volume_id, **self._taken(step))
        self._volume = step.volume

    def _taken(self, step: Step) -> dict[str, Any]:
        since = step.changes.time
        return {
            "claimed_by": self._holder,
            "claimed_for": self._purpose,
            "claimed_since": since,
            "claimed_until": since + timedelta(seconds=self._claims.hold_seconds),
        }

    @contextmanager
    def end(self) -> Iterator[Step]:
        """The last transaction: releases the claim.

        Raises OutcomeUnknown, and writes nothing, when the claim had ended and somebody else
        went on with what was begun; RecordsUnavailable.
        """
        assert self._volume is not None, "begin() comes first"
        with self._claims.records.writing() as changes:
            step = Step(changes, self._volume)
            yield step
            if not changes.update_volume(
                self._volume_id, only_claimed_by=self._holder, **step.values, **NO_CLAIM
            ):
                raise OutcomeUnknown(
                    f"the {self._purpose} of volume {self._volume_id} took so long that its claim "
                    "ended, and what it had begun is being undone; look at the volume, then try "
                    "again"
                )
        self._volume = None

    def abandon(self) -> None:
        """After an error that nobody foresaw: others need not wait for the claim's end."""
        if self._volume is not None:
            with suppress(RecordsUnavailable), self._claims.records.writing() as changes:
                changes.update_volume(self._volume_id, only_claimed_by=self._holder, **NO_CLAIM)


class Claims:
    """``name`` tells people which process it is, and ``instance`` itself what it was before."""

    def __init__(
        self,
        records: Records,
        name: str,
        hold_seconds: float = HOLD_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        instance: str = "",
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self.records = records
        self.name = name
        self.instance = instance
        self.hold_seconds = hold_seconds
        self.wait_seconds = wait_seconds
        self.turns = Turns(records.clock, waiting_max)

    @contextmanager
    def hold(
        self,
        volume_id: str,
        purpose: str,
        caller: Caller | None = None,
        wait_seconds: float | None = None,
    ) -> Iterator[Claim]:
        """For an operation of several transactions: ``claim.begin()`` ... ``claim.end()``.

        Without a caller it is attachd's own, which sees all projects. Raises Busy, after the
        usual time or that.

            with claims.hold(volume_id, "attach", caller) as claim:
                with claim.begin() as step:
                    step.add(attachment)
                driver.initialize_connection(...)
                with claim.end() as step:
                    step.replace(attachment)
        """
        wait_seconds = self.wait_seconds if wait_seconds is None else wait_seconds
        with self.turns.taken(volume_id, purpose, wait_seconds):
            claim = Claim(self, volume_id, purpose, caller, wait_seconds)
            try:
                yield claim
            # Whatever it was, it is raised again: others need not wait for the claim's end.
            except Exception:
                claim.abandon()
                raise

    @contextmanager
    def once(
        self,
        volume_id: str,
        purpose: str,
        caller: Caller | None = None,
        wait_seconds: float | None = None,
    ) -> Iterator[Step]:
        """For an operation of one transaction. Raises what ``hold`` and ``begin`` do."""
        wait_seconds = self.wait_seconds if wait_seconds is None else wait_seconds
        with (
            self.turns.taken(volume_id, purpose, wait_seconds),
            self.opened(volume_id, caller, wait_seconds) as step,
        ):
            yield step
            step.write()

    @contextmanager
    def opened(self, volume_id: str, caller: Caller | None, wait_seconds: float) -> Iterator[Step]:
        """A transaction on a volume that nobody has claimed."""
        deadline = time.monotonic() + wait_seconds
        pause = LOOK_SECONDS
        while True:
            with self.records.writing() as changes:
                volume = changes.locked_volume(volume_id)
                if volume is None or not _may_see(caller, volume):
                    raise NotFound("Volume", volume_id)
                if not self._is_claimed(volume):
                    yield Step(changes, volume)
                    return
            if time.monotonic() > deadline:
                raise _busy(volume)
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LOOK_SECONDS_MAX)

    def release_left(self) -> int:
        """Of this instance, before it claims anything: what it held when it was killed.

        What had been begun is as if the claims had ended. Returns how many they were. Raises
        RecordsUnavailable.
        """
        ours = volumes.c.claimed_by.contains(f"/{self.instance}/", autoescape=True)
        with self.records.writing() as changes:
            found = changes.connection.execute(update(volumes).where(ours).values(NO_CLAIM))
        return found.rowcount

    def _is_claimed(self, volume: Volume) -> bool:
        """By somebody else: who asks has this process' turn."""
        claim = volume.claim
        if claim is None or claim.until <= self.records.clock():
            return False
        # Of this process it is one that could not be released, as the database was away.
        return not (self.instance and f"/{self.instance}/" in claim.by)


def _may_see(caller: Caller | None, volume: Volume) -> bool:
    return caller is None or caller.may_see(volume.project_id)


def _busy(volume: Volume) -> Busy:
    claim = volume.claim
    assert claim is not None
    return Busy(
        f"volume {volume.id} is busy: {claim.purpose} by {claim.by.partition('/')[0]} since "
        f"{_shown(claim.since)}, until {_shown(claim.until)} at the latest; try again"
    )


def _shown(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


@dataclass
class _Place:
    """One thread's in a queue."""

    purpose: str
    has_turn: threading.Event
    since: datetime | None = None


class Turns:
    """One thread at a time for each volume, in the order in which they came."""

    def __init__(self, clock: Clock = now, waiting_max: int = WAITING_MAX) -> None:
        self._clock = clock
        self._waiting_max = waiting_max
        self._lock = threading.Lock()
        # Of each volume that somebody works on: who waits. The first has its turn.
        self._queues = defaultdict[str, deque[_Place]](deque)

    @contextmanager
    def taken(self, volume_id: str, purpose: str, wait_seconds: float) -> Iterator[None]:
        """Raises Busy when the turn does not come in time, or too many wait for theirs."""
        mine = _Place(purpose, threading.Event())
        with self._lock:
            queue = self._queues[volume_id]
            if len(queue) > self._waiting_max:
                raise self._busy(volume_id, queue, len(queue) - 1)
            queue.append(mine)
            self._advance(queue)
        try:
            if not mine.has_turn.wait(wait_seconds):
                with self._lock:
                    # The one who asks is still among them.
                    raise self._busy(volume_id, queue, len(queue) - 2)
            yield
        finally:
            with self._lock:
                queue.remove(mine)
                self._advance(queue)
                if not queue:
                    del self._queues[volume_id]

    def waiting(self, volume_id: str) -> int:
        """How many wait behind the one that has its turn."""
        with self._lock:
            return max(0, len(self._queues.get(volume_id, ())) - 1)

    def _advance(self, queue: deque[_Place]) -> None:
        if queue and queue[0].since is None:
            queue[0].since = self._clock()
            queue[0].has_turn.set()

    def _busy(self, volume_id: str, queue: deque[_Place], others: int) -> Busy:
        first = queue[0]
        since = _shown(first.since or self._clock())
        return Busy(
            f"volume {volume_id} is busy: {first.purpose} since {since}, and {others} more are "
            "waiting; try again"
        )
