"""A storage host with simulated volumes and targets: a program that serves until it is ended.

``python -m lab.bench.attachd.simulated_host --volumes N --folder PATH``. It is the real targetd
over engines that are in memory, and has granted access to what the population says.
"""

from __future__ import annotations

import argparse
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from targetd_driver import Endpoint, TargetdDriver

from lab.bench.attachd.population import (
    ATTACHING_HOSTS,
    AVAILABLE,
    POOL,
    attachment_id,
    connector,
    volume_id,
)
from targetd.config import Config
from targetd.daemon import Daemon
from targetd.engines.simulated import SimulatedHost, SimulatedLio, SimulatedLvm
from targetd.model import PoolConfig, PoolReport, Volume, WipePolicy

SERVING = "the storage host serves"
CONFIG = PoolConfig(POOL, "storage", POOL, WipePolicy.NONE)
GIBIBYTE = 1 << 30
GRANTING_THREADS = 8


class ManyVolumes(SimulatedLvm):
    """Has its volumes from the beginning, and no pool to be counted at every call."""

    def __init__(self, host: SimulatedHost, count: int) -> None:
        super().__init__([CONFIG], host)
        now = datetime.now(UTC)
        for number in range(count):
            self._put(Volume(volume_id(number), CONFIG, GIBIBYTE, True, now))

    def pools(self) -> list[PoolReport]:
        size = 1 << 50
        return [PoolReport(CONFIG, size, size, 0, GIBIBYTE, 1 << 20, 1 << 19)]


def socket_of(folder: Path) -> Path:
    return folder / "targetd.sock"


def grant(driver: TargetdDriver, number: int) -> None:
    volume = {"id": volume_id(number)}
    driver.create_export(None, volume)
    for host in ATTACHING_HOSTS:
        attachment = attachment_id(number, host)
        driver.initialize_connection(volume, connector(number, host), attachment)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--volumes", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    config = Config(
        pools=(CONFIG,),
        state_directory=given.folder / "state",
        socket=socket_of(given.folder),
        portal_addresses=("192.0.2.1", "198.51.100.1"),
        # It is not what is measured.
        reconcile_seconds=0,
    )
    host = SimulatedHost()
    daemon = Daemon(config, ManyVolumes(host, given.volumes), SimulatedLio(host))
    daemon.start()
    with (
        TargetdDriver(Endpoint(f"unix:{config.socket}")) as driver,
        ThreadPoolExecutor(GRANTING_THREADS) as threads,
    ):
        list(threads.map(lambda number: grant(driver, number), range(AVAILABLE, given.volumes)))
    print(SERVING, flush=True)
    signal.sigwait([signal.SIGTERM])
    daemon.stop()


if __name__ == "__main__":
    main()
