"""Storage hosts: which there are, a driver for each, and which of them gets a new volume."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from targetd_driver import DriverError, Endpoint, Forbidden, TargetdDriver, TlsFiles, Unavailable

from attachd import placement
from attachd.attention import Attention
from attachd.capacity import USABLE_SECONDS, HostFigures, all_figures
from attachd.database import host_records
from attachd.database.engine import Database
from attachd.errors import (
    AttachError,
    HostUnavailable,
    InUse,
    Invalid,
    NoRoom,
    NotAllowed,
    NotFound,
    of_driver,
)
from attachd.model import HostSpec, HostState, Pool, StorageHost
from attachd.placement import GIBIBYTE, Marks, Place

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
# Of what stands against something, so many are named.
NAMED_MAX = 5


@dataclass(frozen=True)
class Reach:
    """How every storage host is reached: over TCP with these files."""

    tls: TlsFiles | None = None
    timeout_seconds: float = 30.0

    def driver(self, endpoint: str) -> TargetdDriver:
        """Raises HostUnavailable, which says what to put right."""
        try:
            return TargetdDriver(Endpoint(endpoint, self.tls), self.timeout_seconds)
        except ValueError as error:
            raise HostUnavailable(
                f"{endpoint}: a storage host over TCP needs certificate, key and ca of [host_tls] "
                "in the configuration"
            ) from error
        except OSError as error:
            raise HostUnavailable(
                f"{endpoint}: {error.filename} of [host_tls] cannot be read: {error.strerror}"
            ) from error


class _Known:
    """A host as its record said last, and what this process has of it."""

    def __init__(self, record: StorageHost, reach: Reach) -> None:
        self.record = record
        self.figures = HostFigures(record.name, lambda: self.verified().host.pools())
        # Volumes that have a target, as far as this process has made it: hints.
        self.exported = set[str]()
        self._reach = reach
        self._lock = threading.Lock()
        self._driver: TargetdDriver | None = None

    def driver(self) -> TargetdDriver:
        """Made when it is first needed. Raises HostUnavailable."""
        with self._lock:
            if self._driver is None:
                self._driver = self._reach.driver(self.record.endpoint)
            return self._driver

    def verified(self) -> TargetdDriver:
        """As ``driver``, and it answers and is the host that was added. Raises DriverError."""
        driver = self.driver()
        if driver.host.get().lock_domain_id != self.record.lock_domain_id:
            raise Unavailable(
                f"{self.record.endpoint} leads to another storage host now; say where "
                f"{self.record.name} is: attachd host add {self.record.name} ENDPOINT"
            )
        return driver

    def close(self) -> None:
        with self._lock:
            if self._driver is not None:
                self._driver.close()

    def shown(self) -> StorageHost:
        last = self.figures.last()
        if last is None:
            return self.record
        return replace(self.record, reachable=not last.failure, reason=last.failure)


class Hosts:
    """Safe for use by several threads.

    What another process changes in the records is known with the next ``refresh``, which
    ``place`` and ``list`` begin with, and ``driver`` for a host that it does not know.
    """

    def __init__(
        self, database: Database, reach: Reach | None = None, marks: Marks | None = None
    ) -> None:
        self._database = database
        self._reach = reach or Reach()
        self._marks = marks or Marks()
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self.attention = Attention()

    def close(self) -> None:
        with self._lock:
            known, self._known = self._known, {}
        for one in known.values():
            one.close()

    # The records

    def add(self, spec: HostSpec) -> StorageHost:
        """Ask the host what it is, and record it. Again: it is reached by another address now.

        Raises Invalid; HostUnavailable; NotAllowed; InUse when the name is another host's, or
        the host has another name already.
        """
        if not NAME.fullmatch(spec.name):
            raise Invalid(f'host: "{spec.name}" may have letters, digits, ".", "_" and "-" only')
        with self._reach.driver(spec.endpoint) as driver:
            identity = _identity(driver, spec.name)
            with self._database.reading() as connection:
                before = host_records.named(connection, spec.name)
            if before is not None and before.lock_domain_id != identity:
                self._refuse_another(spec, driver)
        state = before.state if before else HostState.UP
        host = StorageHost(spec.name, spec.endpoint, state, 0, lock_domain_id=identity)
        with self._database.writing() as connection:
            for other in host_records.every(connection):
                if other.lock_domain_id == identity and other.name != spec.name:
                    raise InUse(f"{spec.endpoint} is storage host {other.name} already")
            host_records.put(connection, host)
        self.refresh()
        return self._counted([self._get(spec.name).record])[0]

    def _refuse_another(self, spec: HostSpec, driver: TargetdDriver) -> None:
        """A host that lost its state has another identity; its volumes say that it is the same."""
        with self._database.reading() as connection:
            ours = host_records.volume_ids(connection, spec.name)
        try:
            missing = set(ours).difference(one.volume_id for one in driver.volumes.list())
        except DriverError as error:
            raise of_driver(error, spec.name) from error
        if missing:
            raise InUse(
                f"{spec.endpoint} is not storage host {spec.name}: it lacks {_some(missing)}; give "
                "it another name, or delete these volumes first"
            )

    def list(self) -> Sequence[StorageHost]:
        """By name; whether each is reachable, as far as this process has asked."""
        self.refresh()
        return self._counted([known.shown() for known in self._all()])

    def look(self) -> Sequence[StorageHost]:
        """As ``list``, all asked now."""
        self.refresh()
        known = self._all()
        seen = all_figures((one.figures for one in known), usable_seconds=0)
        asked = [
            replace(one.record, reachable=not found.failure, reason=found.failure)
            for one in known
            for found in (seen[one.record.name],)
        ]
        return self._counted(asked)

    def names(self) -> Sequence[str]:
        self.refresh()
        return [known.record.name for known in self._all()]

    def _counted(self, hosts: Sequence[StorageHost]) -> Sequence[StorageHost]:
        """With the number of their volumes, which takes longer the more there are."""
        with self._database.reading() as connection:
            counts = host_records.volume_counts(connection)
        return [replace(host, volumes=counts.get(host.name, 0)) for host in hosts]

    def drain(self, name: str) -> None:
        """Nothing new is placed there; what it has is served. Raises NotFound."""
        self._set_state(name, HostState.DRAINING)

    def resume(self, name: str) -> None:
        """Take back ``drain``. Raises NotFound."""
        self._set_state(name, HostState.UP)

    def _set_state(self, name: str, state: HostState) -> None:
        with self._database.writing() as connection:
            found = host_records.set_state(connection, name, state)
        if not found:
            raise NotFound("Storage host", name)
        self.refresh()

    def remove(self, name: str) -> None:
        """Forget the host; nothing changes on it. Raises NotFound, InUse while it has volumes."""
        with self._database.writing() as connection:
            if host_records.state(connection, name, change=True) is None:
                raise NotFound("Storage host", name)
            volumes = host_records.volume_ids(connection, name)
            if volumes:
                raise InUse(
                    f"storage host {name} has {_some(volumes)}; delete them first, and "
                    f"`attachd host drain {name}` to get no more"
                )
            host_records.remove(connection, name)
        self.refresh()

    def forget(self, name: str) -> Mapping[str, int]:
        """Remove a host that is lost for good, with its volumes, their attachments and snapshots.

        Returns how many of each there were. Raises NotFound; InUse when the host answers.
        """
        self.refresh()
        try:
            self.verified(name)
        except HostUnavailable:
            pass
        else:
            raise InUse(
                f"storage host {name} answers, so it is not lost: delete its volumes, then remove "
                "it without --lost"
            )
        with self._database.writing() as connection:
            if host_records.state(connection, name, change=True) is None:
                raise NotFound("Storage host", name)
            forgotten = host_records.remove_volumes(connection, name)
            host_records.remove(connection, name)
        self.refresh()
        return forgotten

    def refresh(self) -> None:
        """Take over the records as they are."""
        with self._database.reading() as connection:
            records = {one.name: one for one in host_records.every(connection)}
        with self._lock:
            # The driver of one that is gone is closed when its last user lets go of it: a call
            # that is under way is not to fail.
            self._known = {name: self._taken_over(record) for name, record in records.items()}

    def _taken_over(self, record: StorageHost) -> _Known:
        known = self._known.get(record.name)
        if known is None or known.record.endpoint != record.endpoint:
            return _Known(record, self._reach)
        known.record = record
        return known

    def _all(self) -> Sequence[_Known]:
        with self._lock:
            return sorted(self._known.values(), key=lambda known: known.record.name)

    # A driver each

    def driver(self, name: str) -> TargetdDriver:
        """Of the storage host; not to be closed. Raises HostUnavailable."""
        return self._get(name).driver()

    def exported(self, name: str) -> set[str]:
        """The volumes there that had a target when this process looked last.

        Raises HostUnavailable for a host that is not known.
        """
        return self._get(name).exported

    def verified(self, name: str) -> TargetdDriver:
        """As ``driver``, and it answers and is the host that was added.

        Raises HostUnavailable; then nothing is placed there before it does.
        """
        known = self._get(name)
        try:
            return known.verified()
        except DriverError as error:
            self.failed(name, error)
            raise HostUnavailable(f"storage host {name}: {error}") from error

    def _get(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is None:
            self.refresh()
            known = self._known.get(name)
        if known is None:
            raise HostUnavailable(
                f"storage host {name} is not known: add it with `attachd host add {name} ENDPOINT`"
            )
        return known

    def failed(self, name: str, error: DriverError) -> None:
        """The host did not answer: nothing is placed there before it does."""
        known = self._known.get(name)
        if known is not None and not error.answered:
            known.figures.failed(str(error))

    # Where there is room

    def pools(self) -> Sequence[Pool]:
        """Of all hosts that answer."""
        self.refresh()
        seen = all_figures(one.figures for one in self._all())
        return [pool for figures in seen.values() for pool in figures.pools]

    def place(
        self,
        size_gib: int,
        where: Place | None = None,
        refused: Mapping[tuple[str, str], str] = MappingProxyType({}),
    ) -> tuple[str, str]:
        """The host and the pool for a new volume, and not those that have refused it, and why.

        Raises NoRoom, which says why of each; HostUnavailable when none answers; Invalid when
        there is no such host.
        """
        where = where or Place()
        self.refresh()
        known = self._all()
        if where.host is not None and where.host not in [one.record.name for one in known]:
            raise Invalid(f"place: there is no storage host {where.host}")
        size_bytes = size_gib * GIBIBYTE
        asked = [one.figures for one in known if _may_get_more(one.record, where)]
        # Figures that are some seconds old may not show that room has come.
        for usable_seconds in (USABLE_SECONDS, 0):
            seen = all_figures(asked, usable_seconds)
            pools = [
                pool
                for figures in seen.values()
                for pool in figures.pools
                if where.allows(pool) and (pool.host, pool.name) not in refused
            ]
            found = placement.best(pools, size_bytes, self._marks)
            if found is not None:
                self._get(found.host).figures.place(found.name, size_bytes)
                return found.host, found.name
        objections = self._objections(size_bytes, where, refused)
        unreachable = bool(seen) and all(figures.failure for figures in seen.values())
        raise _no_room(size_gib, objections, unreachable)

    def _objections(
        self, size_bytes: int, where: Place, refused: Mapping[tuple[str, str], str]
    ) -> Sequence[str]:
        """Why each of the hosts and pools that may be meant does not get it."""
        found = []
        for known in self._all():
            record, last = known.record, known.figures.last()
            if where.host not in (None, record.name):
                continue
            if record.state is HostState.DRAINING:
                found.append(f"{record.name} is being drained")
            elif last is None or last.failure:
                found.append(f"{record.name}: {last.failure if last else 'does not answer'}")
            else:
                found += self._objections_to_pools(last.pools, size_bytes, where, refused)
        return found

    def _objections_to_pools(
        self,
        pools: Sequence[Pool],
        size_bytes: int,
        where: Place,
        refused: Mapping[tuple[str, str], str],
    ) -> Sequence[str]:
        found = []
        for pool in filter(where.allows, pools):
            reason = refused.get((pool.host, pool.name))
            objection = placement.objection(pool, size_bytes, self._marks)
            found.append(f"{pool.host}#{pool.name} {objection or f'has refused it ({reason})'}")
        return found


def _may_get_more(host: StorageHost, where: Place) -> bool:
    return host.state is HostState.UP and where.host in (None, host.name)


def _no_room(size_gib: int, objections: Sequence[str], unreachable: bool) -> AttachError:
    if not objections:
        return HostUnavailable(
            "there is no such pool, or no storage host at all: see `attachd host list`, and add "
            "one with `attachd host add NAME ENDPOINT`"
        )
    text = f"no room for {size_gib} GiB: {'; '.join(objections)}"
    if unreachable:
        return HostUnavailable(f"{text}; try again later, or add a storage host")
    return NoRoom(f"{text}; delete volumes, extend a pool, or add a storage host")


def _identity(driver: TargetdDriver, name: str) -> str:
    """Which storage host it is, and that we may make volumes there."""
    try:
        # Nothing is there to be deleted, but only an admin is told so.
        driver.volumes.delete(str(uuid.uuid4()))
        return driver.host.get().lock_domain_id
    except Forbidden as error:
        raise NotAllowed(f"storage host {name}: {error}") from error
    except DriverError as error:
        raise of_driver(error, name) from error


def _some(volume_ids: Collection[str]) -> str:
    named = ", ".join(sorted(volume_ids)[:NAMED_MAX])
    more = len(volume_ids) - NAMED_MAX
    count = f"{len(volume_ids)} volume{'s' if len(volume_ids) > 1 else ''}"
    return f"{count} ({named}{f' and {more} more' if more > 0 else ''})"
