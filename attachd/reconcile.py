"""Records against what the storage hosts grant, both ways, and whatever was cut off.

Each storage host is gone through in a thread of its own, so that one that does not answer delays
no other: whole when attachd starts, from time to time, and when the host is back; what was
cut off every few seconds. Several processes may do so over the same records: every step is under
its volume's claim.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType
from typing import Protocol, TypeVar

from targetd_driver import DriverError, TargetdDriver
from targetd_driver import errors as driver_errors

from attachd.claims import Claims
from attachd.database.records import Records
from attachd.errors import AttachError, Busy, NotFound, of_driver
from attachd.grants import is_as_recorded
from attachd.hosts import Hosts
from attachd.model import Attachment, Snapshot, Volume, VolumeStatus
from attachd.settling import Settling
from attachd.transitions import GRANTED, UNFINISHED, state_of
from attachd.unfinished import Unfinished

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
# Until the next look at leases, at which hosts there are, at what was cut off, and at a host that
# did not answer.
LOOK_SECONDS = 5.0
STOP_SECONDS = 5.0
# A volume's target stays for so long when nobody has access to it.
IDLE_EXPORT = timedelta(minutes=10)
# So long records of what was deleted are kept; and how often the older ones are looked for.
HISTORY = timedelta(days=30)
FORGET_SECONDS = 3600.0
# Until a volume that is being filled is looked at again.
FOLLOW_SECONDS = 1.0


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_HasId)


class HostPass:
    """One storage host, gone through once."""

    def __init__(
        self,
        records: Records,
        hosts: Hosts,
        settling: Settling,
        unfinished: Unfinished,
        host: str,
        told: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._records = records
        self._hosts = hosts
        self._settling = settling
        self._unfinished = unfinished
        self.host = host
        # Whether a volume is being filled, which is to be looked at again soon.
        self.waits = False
        # Of what could not be done: why. What was told before is not told again.
        self.not_done: dict[str, str] = {}
        self._told = told

    def whole(self) -> None:
        """Raises HostUnavailable when the host does not answer."""
        driver = self._hosts.verified(self.host)
        self.cut_off()
        self._compare(driver)
        self._look_at_volumes(driver)

    # What was cut off

    def cut_off(self) -> None:
        """Raises HostUnavailable when the host does not answer any more."""
        for volume in _all(lambda after: self._records.unfinished_volumes(self.host, after)):
            self._try(f"volume {volume.id}", self._volume, volume)
        for snapshot in _all(lambda after: self._records.unfinished_snapshots(self.host, after)):
            self._try(f"snapshot {snapshot.id}", self._snapshot, snapshot)
        for one in _all(lambda after: self._records.unfinished_attachments(self.host, after)):
            self._try(f"attachment {one.id}", self._attachment, one)

    def _volume(self, volume: Volume) -> None:
        if not self._unfinished.volume(volume):
            self.waits = True

    def _snapshot(self, snapshot: Snapshot) -> None:
        self._unfinished.snapshot(snapshot)

    def _attachment(self, attachment: Attachment) -> None:
        self._settling.finish(attachment)

    # Grants

    def _compare(self, driver: TargetdDriver) -> None:
        try:
            there = {(one.volume_id, one.attachment_id): one for one in driver.connections.list()}
        except DriverError as error:
            raise of_driver(error, self.host) from error
        for attachment in self._attachments():
            if state_of(attachment) not in GRANTED | UNFINISHED:
                continue
            granted = there.pop((attachment.volume_id, attachment.id), None)
            if state_of(attachment) in GRANTED and not is_as_recorded(granted, attachment):
                self._try(f"attachment {attachment.id}", self._settling.give_again, attachment)
        if there:
            self._revoke_strays(driver, set(there))

    def _attachments(self) -> Iterator[Attachment]:
        after = ("", "")
        while page := self._records.attachments_of_host(self.host, after):
            yield from page
            after = (page[-1].volume_id, page[-1].id)

    def _revoke_strays(self, driver: TargetdDriver, there: set[tuple[str, str]]) -> None:
        """Others' volumes, of which we have no records, are not touched."""
        volumes = _all(lambda after: self._records.volumes_of_host(self.host, after))
        ours = {volume.id for volume in volumes}
        for volume_id, attachment_id in sorted(there):
            if volume_id in ours:
                what = f"volume {volume_id}, attachment {attachment_id}"
                self._try(what, self._revoke_stray, driver, volume_id, attachment_id)

    def _revoke_stray(self, driver: TargetdDriver, volume_id: str, attachment_id: str) -> None:
        # A second look: the records and the host were not read at the same moment.
        try:
            driver.connections.get(volume_id, attachment_id)
        except driver_errors.NotFound:
            return
        except DriverError as error:
            raise of_driver(error, self.host) from error
        self._settling.revoke_stray(volume_id, attachment_id)

    # Volumes that nobody uses

    def _look_at_volumes(self, driver: TargetdDriver) -> None:
        """Whether they are there; and their targets go, which stay for a while when nobody has
        access any more: who attaches again soon has it sooner, and each removal can disturb a
        login of somebody else (docs/decisions/0012-attachd.md).
        """
        try:
            there = {volume.volume_id for volume in driver.volumes.list()}
            exports = list(driver.exports.list())
        except DriverError as error:
            raise of_driver(error, self.host) from error
        self._hosts.exported(self.host).intersection_update(one.volume_id for one in exports)
        idle = {one.volume_id for one in exports if not one.attachment_ids}
        before = self._records.clock() - IDLE_EXPORT
        for volume in _all(lambda after: self._records.volumes_of_host(self.host, after)):
            if volume.status is VolumeStatus.AVAILABLE and volume.id not in there:
                self._try(f"volume {volume.id}", self._unfinished.missing, volume)
            elif volume.id in idle and volume.update_time < before:
                self._try(f"volume {volume.id}", self._settling.remove_idle_export, volume.id)

    def _try(self, what: str, work: Callable[..., object], *arguments: object) -> None:
        """One that is not to be done now does not keep the others from it.

        Raises HostUnavailable when it is the host that does not answer.
        """
        try:
            work(*arguments)
        except (Busy, NotFound):
            # Somebody else is at work on it, or it has gone.
            return
        except AttachError as error:
            self.not_done[what] = str(error)
            if self._told.get(what) != str(error):
                log.warning("%s is not done yet: %s", what, error)
            self._hosts.verified(self.host)


class Reconciler:
    """Works from ``start`` to ``stop``."""

    def __init__(
        self,
        records: Records,
        claims: Claims,
        hosts: Hosts,
        settling: Settling,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._records = records
        self._hosts = hosts
        self._settling = settling
        self._unfinished = Unfinished(claims, hosts)
        self._interval_seconds = interval_seconds
        self._forget_due = time.monotonic()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        # The hosts that have a thread, each with what ends it.
        self._served: dict[str, threading.Event] = {}

    def start(self) -> None:
        self._start(self._watch, "reconcile")

    def _start(self, work: Callable[..., None], name: str, *arguments: object) -> None:
        thread = threading.Thread(target=work, name=name, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """What is under way is waited for, for some time; the next start goes on with it."""
        self._stopping.set()
        for host, ended in list(self._served.items()):
            ended.set()
            self._hosts.attention.ask(host)
        deadline = time.monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def run(self, host: str) -> HostPass:
        """Go through one host, whole, now. Raises HostUnavailable, RecordsUnavailable."""
        gone_through = self._pass(host)
        gone_through.whole()
        return gone_through

    def _pass(self, host: str, told: Mapping[str, str] = MappingProxyType({})) -> HostPass:
        return HostPass(self._records, self._hosts, self._settling, self._unfinished, host, told)

    def expire_leases(self) -> None:
        """Raises RecordsUnavailable."""
        for attachment in self._records.expired_attachments(self._records.clock()):
            with suppress(Busy, NotFound):
                self._settling.expire(attachment)

    def forget_history(self) -> None:
        """Raises RecordsUnavailable."""
        with self._records.writing() as changes:
            forgotten = changes.purge(changes.time - HISTORY)
        if forgotten:
            log.info("%d records of what was deleted are forgotten", forgotten)

    # Threads

    def _watch(self) -> None:
        failure = ""
        while not self._stopping.is_set():
            failure = _tried("leases and storage hosts are", failure, self._look)
            self._stopping.wait(LOOK_SECONDS)

    def _look(self) -> None:
        self.expire_leases()
        self._serve_hosts(self._hosts.names())
        if time.monotonic() >= self._forget_due:
            self.forget_history()
            self._forget_due = time.monotonic() + FORGET_SECONDS

    def _serve_hosts(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._served:
                self._served[name] = threading.Event()
                self._start(self._serve, f"reconcile-{name}", name, self._served[name])
        for name in self._served.keys() - set(names):
            self._served.pop(name).set()

    def _serve(self, host: str, ended: threading.Event) -> None:
        whole_due, failure, told = time.monotonic(), "", dict[str, str]()
        while not (ended.is_set() or self._stopping.is_set()):
            one = self._pass(host, told)
            whole = time.monotonic() >= whole_due
            work = one.whole if whole else one.cut_off
            failure = _tried(f"storage host {host} is", failure, work)
            told = one.not_done
            if failure:
                # Whole when it is back: it may have lost what it had.
                whole_due = time.monotonic()
            elif whole:
                whole_due = time.monotonic() + self._interval_seconds
            self._hosts.attention.wait(host, FOLLOW_SECONDS if one.waits else LOOK_SECONDS)


def _tried(what: str, failure: str, work: Callable[[], None]) -> str:
    """Returns why it did not work, which is told when it is not what was returned before."""
    try:
        work()
    except AttachError as error:
        if str(error) != failure:
            log.warning("%s looked at later: %s", what, error)
        return str(error)
    # The outer loop of a thread: what nobody expected must not end it.
    except Exception as error:
        log.exception("%s looked at later", what)
        return type(error).__name__
    if failure:
        log.info("%s looked at again", what)
    return ""


def _all(read: Callable[[str], list[Item]]) -> Iterator[Item]:
    """Page after page; ``read`` gives those after an id."""
    after = ""
    while page := read(after):
        yield from page
        after = page[-1].id
