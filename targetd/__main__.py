"""The command ``targetd``."""

from __future__ import annotations

import argparse
import faulthandler
import sys
from pathlib import Path

from targetd import (
    __version__,
    config,
    config_warnings,
    daemon,
    logs,
    runtime_directory,
    secretbox,
    service,
)
from targetd.engines.lio import Lio
from targetd.engines.lvm import Lvm
from targetd.engines.simulated import SimulatedHost, SimulatedLio, SimulatedLvm
from targetd.errors import NotReady, StartError

# From sysexits.h; the unit tries again after the second, and not after the first.
CONFIG_STATUS, NOT_READY_STATUS = 78, 75


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
            say_warnings(arguments.config, settings)
            return
        # What hangs or crashes leaves the places where its threads were, and no values.
        faulthandler.enable()
        logs.setup(settings.log_level)
        secretbox.keep_out_of_core_dumps()
        runtime_directory.give_to_group()
        service.run(_daemon(settings, arguments.simulate), lambda: config.load(arguments.config))
    except StartError as error:
        print(f"targetd: {error}", file=sys.stderr)
        sys.exit(NOT_READY_STATUS if isinstance(error, NotReady) else CONFIG_STATUS)


def say_warnings(path: Path, settings: config.Config) -> None:
    for warning in config_warnings.warnings(settings):
        print(f"{path}: warning: {warning}", file=sys.stderr)
    print(f"{path}: ok")


def _daemon(settings: config.Config, simulate: bool) -> daemon.Daemon:
    if simulate:
        host = SimulatedHost()
        return daemon.Daemon(settings, SimulatedLvm(settings.pools, host), SimulatedLio(host))
    return daemon.Daemon(settings, Lvm(settings.pools), Lio())


if __name__ == "__main__":
    main()
