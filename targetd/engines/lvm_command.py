"""Running LVM's commands, and reading their reports."""

from __future__ import annotations

import json
from typing import Any

from targetd import metrics
from targetd.engines import process
from targetd.engines.interface import EngineError
from targetd.engines.process import ProcessFailed

# Volumes hold guests' own volume groups, which the host must never scan; times
# as seconds since the epoch; no message bus is asked for on every command.
COMMON_CONFIG = "devices/scan_lvs=0 global/notify_dbus=0 report/time_format=%s"

Row = dict[str, str]


def run(command: str, *arguments: str) -> str:
    """Run one LVM command; returns what it printed. Raises EngineError."""
    return _run("lvm", command, "--config", COMMON_CONFIG, *arguments)


def report(command: str, columns: str, *names: str) -> list[Row]:
    """The rows of ``lvs``, ``vgs`` or ``pvs``; every value is a text. Raises EngineError."""
    output = run(
        command,
        *("--reportformat", "json", "--units", "b", "--nosuffix", "--options", columns),
        *names,
    )
    try:
        document: Any = json.loads(output)
        (section,) = document["report"]
        (rows,) = section.values()
    except (ValueError, KeyError) as error:
        raise EngineError(f"{command} printed no report: {output[:200]!r}") from error
    return list(rows)


def configured(*keys: str) -> Row:
    """What the host's own configuration says of some keys. Raises EngineError."""
    # Without ours before it: the question is what every other LVM command does.
    output = _run("lvm", "lvmconfig", "--typeconfig", "full", *(f"devices/{key}" for key in keys))
    lines = (line.partition("=") for line in output.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _run(*argv: str) -> str:
    try:
        with metrics.lvm_command(argv[1]):
            return process.run(argv).stdout
    except ProcessFailed as error:
        raise EngineError(str(error)) from error
    except OSError as error:
        raise EngineError(f"lvm cannot be run: {error}") from error
