"""attachd as a process of its own on this machine's loopback."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from targetd_driver import Endpoint

from lab.bench.attachd.processes import Program, module
from lab.program import run

Wrap = Callable[[Sequence[str]], list[str]]

START_SECONDS = 60.0
COMMAND_SECONDS = 60.0
SERVES = re.compile(r"serving http://127\.0\.0\.1:(\d+)")
# More than the pools of a lab can promise.
OVER_SUBSCRIPTION = 10_000
CONFIGURATION = """\
state_directory = "{folder}"
database = "{database}"
socket = ""
listen = "127.0.0.1:0"
identity = "noauth"
over_subscription_max = {over_subscription}
"""
HOST_TLS = """\
[host_tls]
certificate = "{tls.certificate}"
key = "{tls.key}"
ca = "{tls.ca}"
"""


class Manager(Program):
    """Serves the storage hosts given, by their names. Raises LabError when it does not start.

    ``program`` is the module that runs it, with its arguments; ``wrap`` puts it somewhere else
    than on the network of this machine.
    """

    def __init__(
        self,
        folder: Path,
        hosts: Mapping[str, Endpoint],
        database: str = "",
        program: Sequence[str] = ("attachd",),
        wrap: Wrap = list,
    ) -> None:
        configuration = folder / "attachd.toml"
        text = CONFIGURATION.format(
            folder=folder, database=database, over_subscription=OVER_SUBSCRIPTION
        )
        for endpoint in hosts.values():
            if endpoint.tls is not None:
                text += HOST_TLS.format(tls=endpoint.tls)
        configuration.write_text(text, encoding="utf-8")
        given = ["--config", str(configuration)]
        for name, endpoint in hosts.items():
            run(
                wrap(module("attachd", *given, "host", "add", name, endpoint.address)),
                timeout_seconds=COMMAND_SECONDS,
            )
        super().__init__("attachd", wrap(module(*program, *given)), folder / "log")
        try:
            self.port = int(self.wait_for(_port, START_SECONDS))
        # Whatever it was, it is raised again; also Ctrl-C.
        except BaseException:
            self.close()
            raise


def _port(log: str) -> str | None:
    found = SERVES.search(log)
    return found[1] if found else None
