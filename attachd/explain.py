"""What a volume's records and its storage host say of it, now, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from targetd_driver import DriverError, NotFound, TargetdDriver
from targetd_driver.connections import Connection
from targetd_driver.volumes import VolumeState

from attachd.database.records import Records
from attachd.errors import AttachError
from attachd.hosts import Hosts
from attachd.model import Attachment, Volume
from attachd.placement import GIBIBYTE
from attachd.transitions import GRANTED, State, state_of


def volume(records: Records, hosts: Hosts, found: Volume) -> Sequence[str]:
    """One line for each thing."""
    return [
        *_recorded(found, records.clock()),
        *_snapshots(records, found),
        *(line for one in found.attachments for line in _attachment(one, records.clock())),
        *_on_host(hosts, found),
    ]


def _recorded(found: Volume, now: datetime) -> Iterator[str]:
    name = f' "{found.name}"' if found.name else ""
    yield (
        f"volume {found.id}{name} of project {found.project_id}: {found.size_gib} GiB, "
        f"{found.status}, on storage host {found.host}, pool {found.pool}"
    )
    if found.reason:
        yield f"{found.status} because: {found.reason}"
    claim = found.claim
    if claim is not None and claim.until > now:
        yield (
            f"being worked on: {claim.purpose}, by {claim.by.partition('/')[0]} since "
            f"{shown(claim.since)}, until {shown(claim.until)} at the latest"
        )
    elif claim is not None:
        yield f"cut off: {claim.purpose}, begun {shown(claim.since)}; attachd goes on with it"


def _snapshots(records: Records, found: Volume) -> Iterator[str]:
    for snapshot in records.snapshots_of(found.id):
        reason = f", because: {snapshot.reason}" if snapshot.reason else ""
        yield f"snapshot {snapshot.id}: {snapshot.status}{reason}"


def _attachment(attachment: Attachment, now: datetime) -> Iterator[str]:
    whose = attachment.attached_host or attachment.instance_uuid or "nobody yet"
    state = state_of(attachment)
    yield f"attachment {attachment.id} for {whose}, {attachment.attach_mode}: {MEANINGS[state]}"
    if attachment.reason:
        yield f"attachment {attachment.id} is {attachment.attach_status}: {attachment.reason}"
    if attachment.lease_end_time is not None:
        tense = "goes" if attachment.lease_end_time > now else "should have gone"
        yield f"attachment {attachment.id} {tense} by itself at {shown(attachment.lease_end_time)}"


MEANINGS = {
    State.RESERVED: "reserved; waits for its connector, or for its deletion",
    State.CONNECTING: "is being connected, or was cut off while it was and will be undone",
    State.CONNECTED: "connected; its host has not said that it uses it (attachment-complete)",
    State.ATTACHED: "attached",
    State.DETACHING: "its access is being taken away",
    State.DISCONNECTED: "has no access any more; waits for detach",
    State.ERROR_ATTACHING: "failed; attachd takes its access away until the storage host says so",
    State.ERROR_DETACHING: "attachd takes its access away until the storage host says so",
}


def _on_host(hosts: Hosts, found: Volume) -> Iterator[str]:
    try:
        driver = hosts.driver(found.host)
        yield _seen(driver, found)
        yield from _connections(driver, found)
    except NotFound:
        yield f"storage host {found.host} has no such volume"
    except (DriverError, AttachError) as error:
        yield f"storage host {found.host} does not tell: {error}"


def _seen(driver: TargetdDriver, found: Volume) -> str:
    there = driver.volumes.get(found.id)
    seen = f"storage host {found.host} has it: {there.size_bytes / GIBIBYTE:g} GiB, {there.state}"
    if there.state is VolumeState.COPYING:
        operation = driver.operations.get(there.operation_id)
        percent = 100 * operation.done_bytes / (operation.total_bytes or 1)
        failed = f", {operation.error}" if operation.error else ""
        seen += f" from its source, {percent:.0f} % done{failed}"
    return seen


def _connections(driver: TargetdDriver, found: Volume) -> Iterator[str]:
    granted = {one.id for one in found.attachments if state_of(one) in GRANTED}
    there = {one.attachment_id: one for one in driver.connections.list(found.id)}
    for attachment_id in sorted(granted - there.keys()):
        yield f"attachment {attachment_id} has no access there; attachd gives it again"
    for attachment_id, connection in sorted(there.items()):
        yield f"access there by attachment {attachment_id}: {_login(connection)}"
        if attachment_id not in {one.id for one in found.attachments}:
            yield f"attachment {attachment_id} has no record; attachd takes its access away"


def _login(connection: Connection) -> str:
    logged_in = "logged in" if connection.logged_in else "not logged in"
    whose = f"{connection.host} ({connection.initiator})"
    return f"{whose}, {connection.access_mode}, {connection.state}, {logged_in}"


def shown(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
