"""The command ``targetd``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from targetd import __version__, config, daemon, logs, secretbox
from targetd.engines.lio import Lio
from targetd.engines.lvm import Lvm
from targetd.engines.simulated import SimulatedHost, SimulatedLio, SimulatedLvm
from targetd.errors import StartError

START_ERROR_STATUS = 78  # EX_CONFIG: systemd need not try again at once


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="targetd",
        description="Manage LVM volumes and LIO iSCSI targets of this host, driven over gRPC.",
    )
    parser.add_argument("--version", action="version", version=f"targetd {__version__}")
    parser.add_argument(
        "--config", type=Path, default=config.DEFAULT_PATH, help="default: %(default)s"
    )
    parser.add_argument("--check-config", action="store_true", help="check it, and do no more")
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="keep volumes and targets in memory only: to try the interface, without root",
    )
    arguments = parser.parse_args()
    try:
        settings = config.load(arguments.config)
        if arguments.check_config:
            print(f"{arguments.config}: ok")
            return
        logs.setup(settings.log_level)
        secretbox.keep_out_of_core_dumps()
        daemon.run(_daemon(settings, arguments.simulate))
    except StartError as error:
        print(f"targetd: {error}", file=sys.stderr)
        sys.exit(START_ERROR_STATUS)


def _daemon(settings: config.Config, simulate: bool) -> daemon.Daemon:
    if simulate:
        host = SimulatedHost()
        return daemon.Daemon(settings, SimulatedLvm(settings.pools, host), SimulatedLio(host))
    return daemon.Daemon(settings, Lvm(settings.pools), Lio())


if __name__ == "__main__":
    main()
