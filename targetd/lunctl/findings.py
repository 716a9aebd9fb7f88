"""What is wrong with a host and what to do: from its daemon's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.lunctl import human
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.pool import PERCENT, used_percent, vg_metadata_percent
from targetd.lunctl.present import Present

if TYPE_CHECKING:
    from targetd.lunctl.client import Client

ERROR, WARNING, OK, SKIPPED = "error", "warning", "ok", "skipped"
# The daemon refuses new volumes in a thin pool that is 95 % full.
FULL_PERCENT = 95.0
FILLING_PERCENT = 80.0
LOG = "journalctl -u targetd"


@dataclass(frozen=True)
class Finding:
    # error, warning, ok, or skipped
    level: str
    # What was looked at, in a word or two.
    about: str
    what: str
    # Empty where nothing is to be done, or where ``what`` already says it.
    cure: str = ""


def list_pools(client: Client) -> list[volume_pb2.Pool] | None:
    """None for a caller who may not see them: pools are nobody's business who only attaches."""
    try:
        answer = client.call(client.volumes.ListPools, volume_pb2.ListPoolsRequest())
    except CommandError as error:
        if error.status is Exit.NOT_ALLOWED:
            return None
        raise
    return list(answer.pools)


def of_daemon(client: Client, state: Present, pools: Sequence[volume_pb2.Pool]) -> list[Finding]:
    """Errors first."""
    found = [
        *_of_health(client.health()),
        *_of_volumes(state.volumes),
        *_of_connections(state),
        *_of_strangers(strangers(client, state)),
        *_of_operations(state.operations),
        *_of_snapshots(state.snapshots),
        *(finding for pool in pools for finding in _of_pool(pool)),
    ]
    return sorted(found, key=lambda finding: finding.level != ERROR)


def _of_health(health: str) -> Iterator[Finding]:
    if health != "SERVING":
        yield Finding(ERROR, "daemon", f"the daemon says of itself: {health}", LOG)


def _of_volumes(volumes: Sequence[volume_pb2.Volume]) -> Iterator[Finding]:
    for volume in volumes:
        if volume.state == volume_pb2.VOLUME_STATE_DEGRADED:
            yield Finding(
                ERROR,
                "volume",
                f"volume {volume.volume_id} is degraded: its device is missing or does not answer",
                f"lunctl why {volume.volume_id}",
            )
        elif volume.state == volume_pb2.VOLUME_STATE_DETACHING:
            yield Finding(
                WARNING,
                "volume",
                f"volume {volume.volume_id}: a revocation has begun and not ended",
                f"lunctl why {volume.volume_id}",
            )


def _of_connections(state: Present) -> Iterator[Finding]:
    there = {volume.volume_id for volume in state.volumes}
    for one in state.connections:
        # What was not looked at yet is not known to be wrong.
        looked_at = one.HasField("observe_time")
        if one.state == export_pb2.CONNECTION_STATE_GRANTED and looked_at and not one.authorized:
            volume_id = one.volume_id
            gone = volume_id not in there
            yield Finding(
                ERROR,
                "connection",
                f"attachment {one.attachment_id} of volume {volume_id} has no access in the kernel"
                f"{', and LVM has no such volume' if gone else ''}",
                f"If it is gone for good: lunctl connection remove {volume_id} --all; "
                f"lunctl export remove {volume_id}"
                if gone
                else f"lunctl reconcile {volume_id}",
            )


def strangers(client: Client, state: Present) -> list[export_pb2.Session]:
    """Sessions without attachment; the kernel is asked only where the counts differ."""
    found = []
    for export in state.exports:
        expected = {
            one.initiator
            for one in state.connections
            if one.volume_id == export.volume_id and one.logged_in
        }
        if export.session_count > len(expected):
            request = export_pb2.ListSessionsRequest(volume_id=export.volume_id)
            sessions = client.pages(client.exports.ListSessions, request, "sessions")
            found += [session for session in sessions if not session.attachment_ids]
    return found


def _of_strangers(sessions: Sequence[export_pb2.Session]) -> Iterator[Finding]:
    for session in sessions:
        yield Finding(
            ERROR,
            "session",
            f"{session.initiator} is logged in to volume {session.volume_id} without attachment",
            f"lunctl reconcile {session.volume_id}",
        )


def _of_operations(operations: Sequence[host_pb2.Operation]) -> Iterator[Finding]:
    for operation in operations:
        if operation.state == host_pb2.OPERATION_STATE_FAILED:
            yield Finding(
                ERROR,
                "operation",
                f"{human.operation_kind(operation)} {operation.operation_id}: {operation.error}",
                LOG,
            )


def _of_snapshots(snapshots: Sequence[volume_pb2.Snapshot]) -> Iterator[Finding]:
    for snapshot in snapshots:
        if snapshot.overflowed:
            yield Finding(
                ERROR,
                "snapshot",
                f"snapshot {snapshot.snapshot_id} has lost its content: its space ran out",
                f"lunctl snapshot delete {snapshot.snapshot_id}",
            )
        elif snapshot.used_percent >= FILLING_PERCENT:
            yield Finding(
                WARNING,
                "snapshot",
                f"snapshot {snapshot.snapshot_id} is {PERCENT.format(snapshot.used_percent)} full, "
                "and is lost when it is full",
                "Copy it to a volume (lunctl volume create --from-snapshot), or delete it.",
            )


def _of_pool(pool: volume_pb2.Pool) -> Iterator[Finding]:
    group = pool.volume_group
    thin = f"{group}/{pool.thin_pool}"
    shares = [(vg_metadata_percent(pool), "LVM's metadata area", "Delete volumes or snapshots.")]
    if pool.thin_pool:
        shares += [
            (pool.data_percent, "data space", f"lvextend -L +SIZE {thin}"),
            (
                pool.metadata_percent,
                "metadata space",
                f"lvextend --poolmetadatasize +SIZE {thin}",
            ),
        ]
    else:
        shares.append((used_percent(pool), "space", f"vgextend {group} DEVICE"))
    for share, what, cure in shares:
        if share >= FILLING_PERCENT:
            # A thick pool that is full harms nobody who is in it already.
            fatal = share >= FULL_PERCENT and what != "space"
            yield Finding(
                ERROR if fatal else WARNING,
                "pool",
                f"pool {pool.name}: its {what} is {PERCENT.format(share)} full",
                cure,
            )
