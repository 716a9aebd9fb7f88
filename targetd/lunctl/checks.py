"""What can be seen on the storage host itself, with the checks that the daemon makes at start."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from targetd import config_warnings
from targetd.config import Config
from targetd.engines import lio_start, lvm_checks, lvm_command, process
from targetd.engines.interface import EngineError
from targetd.engines.lvm import POOL_COLUMNS
from targetd.engines.lvm_command import Row
from targetd.engines.process import ProcessFailed
from targetd.errors import StartError
from targetd.lunctl import human
from targetd.lunctl.findings import ERROR, OK, SKIPPED, WARNING, Finding
from targetd.model import PoolConfig
from targetd.secretbox import load_key

MODULES = ("target_core_mod", "target_core_iblock", "iscsi_target_mod", "dm_mod")
THIN_MODULES = ("dm_thin_pool",)
MODULE_FOLDER = Path("/sys/module")
KERNEL_FOLDER = Path("/lib/modules")
CONFIGFS = "/sys/kernel/config"
UNIT = "targetd.service"
PROGRAM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# The records grow by some hundred bytes for each attachment.
STATE_FREE_BYTES_MIN = 100 << 20
CERTIFICATE_ENDS_SOON = timedelta(days=30)
# adjtimex(2): its answer when nothing keeps the clock right, and room for its structure.
TIME_ERROR = 5
TIMEX_BYTES = 512

Check = Callable[[Config], Iterator[Finding]]


def check_host(config: Config) -> list[Finding]:
    """All of them; root is needed."""
    checks: tuple[Check, ...] = (
        _unit,
        _configuration,
        _managers,
        _modules,
        _configfs,
        _scanning,
        _groups,
        _thin_tools,
        _state_directory,
        _key,
        _certificates,
        _clock,
    )
    return [finding for check in checks for finding in check(config)]


class _Warnings(logging.Handler):
    """What the daemon would only log is a finding here."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _of_daemon(about: str, check: Callable[[], object], fine: str) -> Iterator[Finding]:
    """One of the daemon's own checks at start: what it refuses is an error."""
    with _logged() as messages:
        try:
            check()
        except (StartError, EngineError) as error:
            yield Finding(ERROR, about, str(error))
            return
    for message in messages:
        yield Finding(WARNING, about, message)
    if not messages:
        yield Finding(OK, about, fine)


@contextmanager
def _logged() -> Iterator[list[str]]:
    """What would be logged inside the block is in the list instead."""
    logger, warnings = logging.getLogger("targetd"), _Warnings()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(warnings)
    try:
        yield warnings.messages
    finally:
        logger.removeHandler(warnings)
        logger.propagate = propagated


def _unit(config: Config) -> Iterator[Finding]:
    try:
        shown = process.run(
            ["systemctl", "show", "--property=ActiveState,UnitFileState,NRestarts", UNIT]
        ).stdout
    except (OSError, ProcessFailed) as error:
        yield Finding(SKIPPED, "unit", f"systemd cannot be asked: {error}")
        return
    unit = dict(line.partition("=")[::2] for line in shown.splitlines())
    if unit.get("ActiveState") != "active":
        yield Finding(
            ERROR,
            "unit",
            f"{UNIT} is {unit.get('ActiveState', 'unknown')}",
            "systemctl start targetd; why it ended: journalctl -u targetd",
        )
    elif unit.get("UnitFileState") == "disabled":
        yield Finding(WARNING, "unit", f"{UNIT} does not start at boot", "systemctl enable targetd")
    elif unit.get("NRestarts", "0") != "0":
        yield Finding(
            WARNING,
            "unit",
            f"{UNIT} runs, and was started again {unit['NRestarts']} times after a failure",
            "journalctl -u targetd",
        )
    else:
        yield Finding(OK, "unit", f"{UNIT} runs")


def _configuration(config: Config) -> Iterator[Finding]:
    """What ``targetd --check-config`` warns of."""
    # That a certificate ends soon is logged there, and is a finding of its own here.
    with _logged():
        warnings = config_warnings.warnings(config)
    for warning in warnings:
        yield Finding(WARNING, "configuration", warning)


def _managers(config: Config) -> Iterator[Finding]:
    yield from _of_daemon(
        "managers", lio_start.refuse_other_managers, "nothing else manages LIO on this host"
    )


def _modules(config: Config) -> Iterator[Finding]:
    thin = any(pool.thin_pool for pool in config.pools)
    missing = [
        name
        for name in (*MODULES, *(THIN_MODULES if thin else ()))
        if not (MODULE_FOLDER / name).is_dir() and not _is_built_in(name)
    ]
    for name in missing:
        yield Finding(
            ERROR,
            "modules",
            f"the kernel module {name} is not loaded",
            f"modprobe {name}; at each boot: /etc/modules-load.d/targetd.conf",
        )
    if not missing:
        yield Finding(OK, "modules", "the kernel modules are loaded")


def _is_built_in(name: str) -> bool:
    try:
        text = (KERNEL_FOLDER / platform.release() / "modules.builtin").read_text()
    except OSError:
        return False
    return any(Path(line).stem.replace("-", "_") == name for line in text.splitlines())


def _configfs(config: Config) -> Iterator[Finding]:
    if os.path.ismount(CONFIGFS):
        yield Finding(OK, "configfs", f"it is mounted on {CONFIGFS}")
    else:
        yield Finding(
            ERROR,
            "configfs",
            f"it is not mounted on {CONFIGFS}",
            "systemctl start sys-kernel-config.mount",
        )


def _scanning(config: Config) -> Iterator[Finding]:
    yield from _of_daemon(
        "lvm.conf",
        lvm_checks.check_scanning,
        "LVM of this host does not look into volumes (scan_lvs=0)",
    )


def _groups(config: Config) -> Iterator[Finding]:
    try:
        rows = {row["vg_name"]: row for row in lvm_command.report("vgs", lvm_checks.CHECK_COLUMNS)}
        volumes = lvm_command.report("lvs", POOL_COLUMNS)
    except EngineError as error:
        yield Finding(ERROR, "pools", f"LVM does not answer: {error}", "Is lvm2 installed?")
        return
    for group in sorted({pool.volume_group for pool in config.pools}):
        yield from _group(group, rows.get(group))
    for pool in config.pools:
        # Without its group there is nothing more to say of a pool.
        if pool.thin_pool and pool.volume_group in rows:
            yield from _thin_pool(pool, volumes)


def _group(group: str, row: Row | None) -> Iterator[Finding]:
    yield from _of_daemon(
        "pools",
        lambda: lvm_checks.check_group(group, row),
        f"volume group {group} is there and this host's own",
    )


def _thin_pool(pool: PoolConfig, volumes: list[Row]) -> Iterator[Finding]:
    yield from _of_daemon(
        "pools",
        lambda: lvm_checks.check_thin_zeroes(pool, lvm_checks.thin_pool_row(pool, volumes)),
        f"thin pool {pool.volume_group}/{pool.thin_pool} is active and zeroes its blocks",
    )


def _thin_tools(config: Config) -> Iterator[Finding]:
    if not any(pool.thin_pool for pool in config.pools):
        return
    if shutil.which("thin_check", path=PROGRAM_PATH):
        yield Finding(OK, "thin tools", "thin_check is there")
    else:
        yield Finding(
            ERROR,
            "thin tools",
            "thin_check is missing: LVM will not activate a thin pool after a crash",
            "apt-get install thin-provisioning-tools",
        )


def _state_directory(config: Config) -> Iterator[Finding]:
    directory = config.state_directory
    try:
        mode, free = directory.stat().st_mode, shutil.disk_usage(directory).free
    except OSError as error:
        yield Finding(
            ERROR,
            "records",
            f"{directory}: {error.strerror}",
            "The daemon makes it at its first start; if it was there before, restore it.",
        )
        return
    if stat.S_IMODE(mode) & 0o077:
        yield Finding(ERROR, "records", f"{directory} is open to others", f"chmod 700 {directory}")
    if free < STATE_FREE_BYTES_MIN:
        yield Finding(
            ERROR,
            "records",
            f"{directory} has {human.size(free)} left; without space nothing can be attached",
            f"Make room on its disk: df -h {directory}",
        )
    else:
        yield Finding(OK, "records", f"{directory} has {human.size(free)} left")


def _key(config: Config) -> Iterator[Finding]:
    path = config.state_directory / "host.key"
    if not config.state_directory.exists():
        yield Finding(SKIPPED, "host key", "the first start of the daemon makes it")
        return
    yield from _of_daemon(
        "host key", lambda: load_key(path, create=False), f"{path} is there, for root alone"
    )


def _certificates(config: Config) -> Iterator[Finding]:
    if config.tls is None:
        yield Finding(SKIPPED, "certificates", "gRPC is not served over TCP: there is no [tls]")
        return
    for path in (config.tls.certificate, config.tls.client_ca):
        try:
            ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        except (OSError, ValueError):
            # Among the warnings of the configuration.
            continue
        yield _certificate(path, ends)


def _certificate(path: Path, ends: datetime) -> Finding:
    left = ends - datetime.now(UTC)
    if left > CERTIFICATE_ENDS_SOON:
        return Finding(OK, "certificates", f"{path} is valid until {ends:%Y-%m-%d}")
    over = left < timedelta(0)
    return Finding(
        ERROR if over else WARNING,
        "certificates",
        f"{path} {'ended' if over else 'ends'} on {ends:%Y-%m-%d}",
        "Issue a new one and put it in its place.",
    )


def _clock(config: Config) -> Iterator[Finding]:
    """As adjtimex(2) has it: certificates are refused where the time is wrong."""
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    if answer == TIME_ERROR:
        yield Finding(
            WARNING,
            "clock",
            "nothing keeps the clock right; with a wrong one certificates are refused",
            "timedatectl set-ntp true, or install chrony",
        )
    elif answer < 0:
        yield Finding(SKIPPED, "clock", "the kernel does not say whether the clock is right")
    else:
        yield Finding(OK, "clock", "it is kept right")
