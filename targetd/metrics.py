"""What the daemon counts as it works; metrics_collector adds what it sees when it is asked.

Of the whole process, so that whoever does something can count it. Names follow
the rules of Prometheus: a prefix, the unit, and ``_total`` behind what only grows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.registry import Collector

from targetd.model import OperationKind

# A second series for each counter, that tells when it began: nothing here asks for it.
# The library has no annotation for it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

# A call takes a millisecond from memory, some without a program, 0.1 s and more with LVM.
CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LVM_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

CALLS = Counter(
    "targetd_calls_total",
    "Calls that have ended, by method and gRPC code; CANCELLED: the caller had gone.",
    ["method", "code"],
    registry=None,
)
CALL_SECONDS = Histogram(
    "targetd_call_seconds",
    "How long calls took, but for those that watch.",
    ["method"],
    buckets=CALL_BUCKETS,
    registry=None,
)
LVM_SECONDS = Histogram(
    "targetd_lvm_command_seconds",
    "How long LVM's commands took.",
    ["command"],
    buckets=LVM_BUCKETS,
    registry=None,
)
LVM_FAILURES = Counter(
    "targetd_lvm_command_failures_total",
    "LVM's commands that failed or could not be run.",
    ["command"],
    registry=None,
)
RECONCILE_SECONDS = Summary(
    "targetd_reconcile_seconds",
    "How long whole passes over all exports took.",
    registry=None,
)
RECONCILE_END = Gauge(
    "targetd_reconcile_last_end_timestamp_seconds",
    "When the last whole pass over all exports ended.",
    registry=None,
)
RECONCILE_REPAIRS = Counter(
    "targetd_reconcile_repairs_total",
    "Things in the kernel that were not as they must be and were put right; "
    "target and acl: there was none, as after a boot of the host, or one too many.",
    ["kind"],
    registry=None,
)
OPERATION_BYTES = Counter(
    "targetd_operation_bytes_total",
    "Bytes that wipes and copies have worked through.",
    ["kind"],
    registry=None,
)
OPERATION_FAILURES = Counter(
    "targetd_operation_failures_total",
    "Wipes and copies that failed; each is tried again.",
    ["kind"],
    registry=None,
)
ACL_CONTENT = "acl-content"
# From the beginning at 0: of a series that begins with 1 nobody sees that it grew.
for kind in (
    "target",
    "backstore",
    "enable",
    "lun/lun_0",
    "portal",
    "attrib/authentication",
    "attrib/generate_node_acls",
    "attrib/demo_mode_discovery",
    "acl",
    ACL_CONTENT,
):
    RECONCILE_REPAIRS.labels(kind)
for operation in OperationKind:
    OPERATION_BYTES.labels(operation)
    OPERATION_FAILURES.labels(operation)
COUNTED = (
    CALLS,
    CALL_SECONDS,
    LVM_SECONDS,
    LVM_FAILURES,
    RECONCILE_SECONDS,
    RECONCILE_END,
    RECONCILE_REPAIRS,
    OPERATION_BYTES,
    OPERATION_FAILURES,
)


def registry(*collectors: Collector) -> CollectorRegistry:
    """All that is counted here, with collectors of one daemon."""
    made = CollectorRegistry()
    for collector in (*COUNTED, *collectors):
        made.register(collector)
    return made


@contextmanager
def lvm_command(name: str) -> Iterator[None]:
    started = time.monotonic()
    failed = 1
    try:
        yield
        failed = 0
    finally:
        LVM_SECONDS.labels(name).observe(time.monotonic() - started)
        LVM_FAILURES.labels(name).inc(failed)


@contextmanager
def whole_reconcile() -> Iterator[None]:
    """Around a pass over all exports; one that was given up half-way does not count."""
    started = time.monotonic()
    yield
    RECONCILE_SECONDS.observe(time.monotonic() - started)
    RECONCILE_END.set_to_current_time()


def count_repairs(differed: Sequence[str]) -> None:
    """``differed``: what a reconcile put right, like "acl NAME: auth/password"."""
    for what in differed:
        # What stands behind the first word are names without number.
        kind, _, more = what.partition(" ")
        if kind == "acl" and ": " in more:
            kind = ACL_CONTENT
        RECONCILE_REPAIRS.labels(kind).inc()
