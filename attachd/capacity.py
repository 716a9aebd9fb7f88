"""What the storage hosts say of their pools, asked all at once and remembered some seconds.

An answer costs a host some processes, and a dead host answers late: so figures that are not new
any more are renewed beside, and only those too old to be of use are waited for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from dataclasses import dataclass, replace

from targetd_driver import DriverError
from targetd_driver import host as driver

from attachd.errors import AttachError
from attachd.model import Pool

FRESH_SECONDS = 10.0
USABLE_SECONDS = 60.0
# A host that takes longer is left out; its answer counts when it comes.
WAIT_SECONDS = 5.0

Ask = Callable[[], Sequence[driver.Pool]]


@dataclass(frozen=True)
class Figures:
    """The pools of a host, or why it did not say."""

    pools: tuple[Pool, ...] = ()
    failure: str = ""


class HostFigures:
    """Of one host. ``ask`` raises DriverError, or AttachError where there is no driver."""

    def __init__(self, name: str, ask: Ask) -> None:
        self.name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._asking: Future[Figures] | None = None
        self._last: Figures | None = None
        self._read_at = float("-inf")
        # To be added to what each pool promises: placed there since its figures were asked for.
        self._placed: Counter[str] = Counter()

    def age_seconds(self) -> float:
        return time.monotonic() - self._read_at

    def asked(self) -> Future[Figures]:
        """The answer that is to come, to a question that may have been asked already."""
        with self._lock:
            if self._asking is None:
                self._asking = Future()
                threading.Thread(
                    target=self._answer, args=(self._asking,), name="figures", daemon=True
                ).start()
            return self._asking

    def _answer(self, asking: Future[Figures]) -> None:
        with self._lock:
            before = Counter(self._placed)
        try:
            pools = tuple(_pool(self.name, pool) for pool in self._ask())
        except (DriverError, AttachError) as error:
            figures = Figures(failure=str(error))
        else:
            figures = Figures(pools)
        with self._lock:
            self._last, self._read_at = figures, time.monotonic()
            # The rest was placed while the host counted, and may be missing in its count.
            self._placed -= before
            self._asking = None
        asking.set_result(figures)

    def failed(self, failure: str) -> None:
        """Another call has found that the host does not answer."""
        with self._lock:
            self._last, self._read_at = Figures(failure=failure), time.monotonic()

    def place(self, pool: str, size_bytes: int) -> None:
        """A volume is about to be made there."""
        with self._lock:
            self._placed[pool] += size_bytes

    def last(self) -> Figures | None:
        """None before the host has ever been asked."""
        with self._lock:
            if self._last is None:
                return None
            return Figures(
                tuple(_with(pool, self._placed[pool.name]) for pool in self._last.pools),
                self._last.failure,
            )


def all_figures(
    hosts: Iterable[HostFigures], usable_seconds: float = USABLE_SECONDS
) -> Mapping[str, Figures]:
    """Of each host by name. Those older than that are waited for: 0 waits for all."""
    hosts = list(hosts)
    waited = {host.name: host.asked() for host in hosts if host.age_seconds() > usable_seconds}
    for host in hosts:
        if host.age_seconds() > FRESH_SECONDS:
            host.asked()
    late = wait_for_all(waited.values(), timeout=WAIT_SECONDS).not_done
    return {host.name: _known(host, waited.get(host.name) in late) for host in hosts}


def _known(host: HostFigures, late: bool) -> Figures:
    last = host.last()
    if late or last is None:
        return Figures(failure=f"did not answer within {WAIT_SECONDS:g} s")
    return last


def _with(pool: Pool, placed_bytes: int) -> Pool:
    return replace(
        pool,
        free_bytes=pool.free_bytes if pool.thin else pool.free_bytes - placed_bytes,
        provisioned_bytes=pool.provisioned_bytes + placed_bytes,
    )


def _pool(host: str, pool: driver.Pool) -> Pool:
    return Pool(
        host=host,
        name=pool.name,
        thin=pool.thin,
        total_bytes=pool.total_bytes,
        free_bytes=pool.free_bytes,
        provisioned_bytes=pool.provisioned_bytes,
        full_percent=max(pool.data_percent, pool.metadata_percent),
    )
