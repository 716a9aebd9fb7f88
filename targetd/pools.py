"""The configured pools, their figures, and the limits that creations must keep."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from targetd.engines.interface import EngineError, LvmEngine
from targetd.errors import FieldViolation, InvalidArgument, ResourceExhausted
from targetd.model import PoolConfig, PoolReport, Provisioning
from targetd.refusals import engine_refusals

log = logging.getLogger(__name__)

# A report costs forks, so operations use the last one: one that is older than
# the first is renewed beside them, one older than the second is waited for.
FRESH_SECONDS = 10.0
USABLE_SECONDS = 60.0
THIN_WATERMARK_PERCENT = 95.0
OVER_SUBSCRIPTION_MAX = 20.0
# LVM needs some hundred bytes of its metadata area per volume; at the end of it
# every command fails, removals too.
VG_METADATA_RESERVE_BYTES = 32 << 10


class Pools:
    def __init__(self, configs: Sequence[PoolConfig], lvm: LvmEngine) -> None:
        self._configs = {config.name: config for config in configs}
        self._lvm = lvm
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._reports: dict[str, PoolReport] = {}
        self._read_at = float("-inf")

    def configure(self, configs: Sequence[PoolConfig]) -> None:
        """The same pools, with other policies."""
        self._configs = {config.name: config for config in configs}

    def named(self, name: str) -> PoolConfig:
        """The pool of that name, or the only one. Raises InvalidArgument."""
        if not name and len(self._configs) == 1:
            return next(iter(self._configs.values()))
        if name not in self._configs:
            known = ", ".join(sorted(self._configs))
            raise InvalidArgument([FieldViolation("pool", f"must be one of: {known}")])
        return self._configs[name]

    def fresh(self) -> list[PoolReport]:
        """Raises Unavailable when LVM does not answer."""
        with engine_refusals("LVM does not report the pools"):
            return self._read()

    def _read(self) -> list[PoolReport]:
        reports = [
            replace(report, config=self._configs[report.config.name])
            for report in self._lvm.pools()
        ]
        with self._lock:
            self._reports = {report.config.name: report for report in reports}
            self._read_at = time.monotonic()
        return reports

    def last(self) -> list[PoolReport]:
        """As LVM said last; none before it has said anything."""
        with self._lock:
            return list(self._reports.values())

    def report(self, pool: PoolConfig) -> PoolReport:
        """Figures recent enough for a decision. Raises Unavailable."""
        age = time.monotonic() - self._read_at
        if age > USABLE_SECONDS:
            self.fresh()
        elif age > FRESH_SECONDS:
            self.renew()
        with self._lock:
            return self._reports[pool.name]

    def renew(self) -> None:
        """Read the figures again beside whatever goes on, once at a time."""
        if self._reading.acquire(blocking=False):
            threading.Thread(target=self._renew, name="pools", daemon=True).start()

    def _renew(self) -> None:
        try:
            self._read()
        except EngineError as error:
            log.warning("the pools cannot be read now: %s", error)
        finally:
            self._reading.release()

    def check_watermarks(self, pool: PoolConfig, promised_bytes: int, more_bytes: int) -> None:
        """Raises ResourceExhausted, saying which limit, before LVM fails."""
        report = self.report(pool)
        limits = [
            (
                report.vg_metadata_free_bytes < VG_METADATA_RESERVE_BYTES,
                f"the metadata area of volume group {pool.volume_group} is full",
                "VG_METADATA_FULL",
            )
        ]
        if pool.provisioning is Provisioning.THIN:
            limits += [
                (
                    report.data_percent >= THIN_WATERMARK_PERCENT,
                    f"its data space is {report.data_percent:.1f} % full",
                    "POOL_DATA_FULL",
                ),
                (
                    report.metadata_percent >= THIN_WATERMARK_PERCENT,
                    f"its metadata space is {report.metadata_percent:.1f} % full",
                    "POOL_METADATA_FULL",
                ),
                (
                    promised_bytes + more_bytes > OVER_SUBSCRIPTION_MAX * report.total_bytes,
                    f"it would promise more than {OVER_SUBSCRIPTION_MAX:g} times its size",
                    "OVER_SUBSCRIBED",
                ),
            ]
        for reached, text, reason in limits:
            if reached:
                raise ResourceExhausted(
                    f"pool {pool.name}: {text}; extend it or delete volumes",
                    reason=reason,
                    pool=pool.name,
                )
