"""What a scrape sees of one daemon: read from its memory, never from LVM or the kernel.

Pools are as the health check last read them, sessions and their figures as the
observations last saw them. No label holds more of a tenant than a volume's id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import psutil
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from targetd import __version__
from targetd.catalog import Catalog
from targetd.changes import Changes
from targetd.engines.interface import REFUSED_LOGINS
from targetd.health import Health
from targetd.model import (
    AclStatistics,
    ConnectionState,
    OperationKind,
    OperationState,
    PoolReport,
    Provisioning,
)
from targetd.observations import Observations
from targetd.operations import Operations
from targetd.pools import Pools
from targetd.workers import VolumeWorkers

process = ProcessCollector(namespace="targetd", registry=None)
# Each pool: a name, what it means, and what of a report it is.
POOL_FIGURES = (
    ("capacity_bytes", "Size of the thin pool, or of the volume group.", "total_bytes"),
    ("free_bytes", "Not yet used of it.", "free_bytes"),
    (
        "provisioned_bytes",
        "Promised to volumes: above the capacity a thin pool is over-subscribed.",
        "provisioned_bytes",
    ),
    ("data_percent", "How full a thin pool's data space is.", "data_percent"),
    ("metadata_percent", "How full a thin pool's metadata space is.", "metadata_percent"),
    (
        "vg_metadata_free_bytes",
        "Free in the metadata area of the volume group; when it is full, every LVM command fails.",
        "vg_metadata_free_bytes",
    ),
    (
        "vg_metadata_capacity_bytes",
        "Size of the metadata area of the volume group.",
        "vg_metadata_total_bytes",
    ),
)


class HostCollector(Collector):
    def __init__(
        self,
        catalog: Catalog,
        changes: Changes,
        observations: Observations,
        operations: Operations,
        pools: Pools,
        workers: VolumeWorkers,
        health: Health,
        reconcile_seconds: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._changes = changes
        self._observations = observations
        self._operations = operations
        self._pools = pools
        self._workers = workers
        self._health = health
        self._reconcile_seconds = reconcile_seconds

    def collect(self) -> Iterator[Metric]:
        yield from self._host()
        yield from _pools(self._pools.last())
        yield from self._volumes()
        yield from self._exports()
        yield from self._logins()
        yield from self._long_work()

    def _host(self) -> Iterator[Metric]:
        build = _gauge("build_info", "1; the version is the label.", ("version",))
        build.add_metric([__version__], 1)
        yield build
        healthy = _gauge(
            "service_healthy", "1 where the service's health is SERVING, else 0.", ("service",)
        )
        for service, serves in self._health.services().items():
            healthy.add_metric([service], serves)
        yield healthy
        yield _one("watchers", "Callers that watch.", self._changes.listener_count)
        yield _one(
            "longest_volume_work_seconds",
            "How long the work on a volume that is at it the longest has been so.",
            self._workers.longest_seconds(),
        )
        yield _one(
            "reconcile_interval_seconds",
            "How often all exports are compared with the kernel, as configured; 0 is never.",
            self._reconcile_seconds(),
        )
        yield _one("process_threads", "Threads of the daemon.", psutil.Process().num_threads())

    # Volumes and their exports

    def _volumes(self) -> Iterator[Metric]:
        volumes, snapshots = self._catalog.volumes(), self._catalog.snapshots()
        for name, text, found in (
            ("volumes", "Volumes of each pool.", volumes),
            ("snapshots", "Snapshots of each pool.", snapshots),
        ):
            counted = _gauge(name, text, ("pool",))
            for pool, count in sorted(Counter(one.pool.name for one in found).items()):
                counted.add_metric([pool], count)
            yield counted
        stuck = _gauge(
            "volume_stuck",
            "1 for a volume that is detaching or degraded; others are not listed.",
            ("volume_id", "state"),
        )
        for volume_id in sorted(self._detaching()):
            stuck.add_metric([volume_id, "detaching"], 1)
        for volume_id in sorted(self._catalog.degraded()):
            stuck.add_metric([volume_id, "degraded"], 1)
        yield stuck

    def _detaching(self) -> set[str]:
        return {
            connection.volume_id
            for connection in self._catalog.all_connections()
            if connection.state is ConnectionState.REVOKING
        }

    def _exports(self) -> Iterator[Metric]:
        label = ("volume_id",)
        attachments = _gauge("export_attachments", "Attachments of the export.", label)
        sessions = _gauge("export_sessions", "Sessions, as the kernel counts them.", label)
        commands = _counter(
            "export_commands",
            "SCSI commands of the initiators that have access; falls when one loses it.",
            label,
        )
        read = _counter("export_read_bytes", "Read by them, in whole MiB.", label)
        written = _counter("export_written_bytes", "Written by them, in whole MiB.", label)
        refused = _counter(
            "export_login_failures", "Logins refused since the target was made.", label
        )
        observations = self._observations
        exports = self._catalog.exports()
        for export in exports:
            place = [export.volume_id]
            connections = self._catalog.connections(export.volume_id)
            attachments.add_metric(place, len(connections))
            sessions.add_metric(place, observations.last_session_count(export.volume_id))
            # Attachments of one initiator share what the kernel counts.
            by_initiator = {one.initiator: one for one in connections}.values()
            done = _sum(observations.last(one).statistics for one in by_initiator)
            commands.add_metric(place, done.commands)
            read.add_metric(place, done.read_bytes)
            written.add_metric(place, done.written_bytes)
            refused.add_metric(place, observations.logins.refused_of(export.volume_id))
        yield _one("exports", "Exported volumes.", len(exports))
        yield from (attachments, sessions, commands, read, written, refused)

    def _logins(self) -> Iterator[Metric]:
        refused = _counter("login_failures", "Logins that the kernel refused, by why.", ("kind",))
        found = self._observations.logins.refused()
        for kind in REFUSED_LOGINS:
            refused.add_metric([kind], found.get(kind, 0))
        yield refused
        strangers = _gauge(
            "export_sessions_without_attachment",
            "Sessions that no attachment explains: somebody is in who must not be. "
            "Volumes without any are not listed.",
            ("volume_id",),
        )
        for volume_id, count in sorted(self._observations.sessions_without_attachment().items()):
            strangers.add_metric([volume_id], count)
        yield strangers

    # Wipes and copies

    def _long_work(self) -> Iterator[Metric]:
        found = [operation for operation in self._operations.list() if not operation.ended]
        counts = Counter((operation.kind, operation.state) for operation in found)
        operations = _gauge(
            "operations", "Wipes and copies that are to be done.", ("kind", "state")
        )
        for kind in OperationKind:
            for state in (OperationState.RUNNING, OperationState.FAILED):
                operations.add_metric([kind, state], counts[kind, state])
        yield operations
        label = ("operation_id", "kind")
        done = _gauge("operation_done_bytes", "How far a wipe or copy has come.", label)
        total = _gauge("operation_size_bytes", "How far it has to go.", label)
        for operation in found:
            done.add_metric([operation.operation_id, operation.kind], operation.done_bytes)
            total.add_metric([operation.operation_id, operation.kind], operation.total_bytes)
        yield from (done, total)


def _pools(reports: Iterable[PoolReport]) -> Iterator[Metric]:
    every = list(reports)
    thin = [one for one in every if one.config.provisioning is Provisioning.THIN]
    for name, text, attribute in POOL_FIGURES:
        family = _gauge(f"pool_{name}", text, ("pool",))
        for report in thin if attribute.endswith("percent") else every:
            family.add_metric([report.config.name], getattr(report, attribute))
        yield family


def _sum(statistics: Iterable[AclStatistics]) -> AclStatistics:
    commands = read = written = 0
    for one in statistics:
        commands += one.commands
        read += one.read_bytes
        written += one.written_bytes
    return AclStatistics(commands, read, written)


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"targetd_{name}", text, labels=labels)


def _counter(name: str, text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(f"targetd_{name}", text, labels=labels)


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"targetd_{name}", text, value=value)
