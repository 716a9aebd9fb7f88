"""The command line as the tests use it: in this process, or as people start it."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from targetd_driver import Endpoint

from targetd.lunctl.cli import PROGRAM, root

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60.0
# Even where this process ignores SIGINT, as one in the background does.
ARGV = ("env", "--default-signal=INT", sys.executable, "-m", "targetd.lunctl")


class Lunctl:
    """The commands of one test, against one daemon."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint.address

    def run(self, *arguments: str, status: int = 0, terminal_input: str | None = None) -> Result:
        """In this process. The status must be the one given."""
        done = CliRunner(env={"LUNCTL_ENDPOINT": self.endpoint}).invoke(
            root, arguments, prog_name=PROGRAM, input=terminal_input
        )
        assert done.exit_code == status, (done.exit_code, done.output, done.exception)
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def error(self, *arguments: str, status: int) -> dict[str, Any]:
        """What a failure prints with ``--json``."""
        done = self.run(*arguments, "--json", status=status)
        assert done.stdout == ""
        error: dict[str, Any] = json.loads(done.stderr)["error"]
        assert error["exit_status"] == status
        return error

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": f"{ROOT}:{ROOT}/drivers",
            "PYTHONUTF8": "1",
            "TERM": "xterm-256color",
            "LUNCTL_ENDPOINT": self.endpoint,
        }

    def start(
        self, *arguments: str, more: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """As a program of its own."""
        return subprocess.Popen(
            [*ARGV, *arguments], env={**self.environment, **(more or {})}, text=True, **options
        )

    def on_terminal(
        self, columns: int, *arguments: str, more: Mapping[str, str] | None = None, typed: str = ""
    ) -> tuple[int, str]:
        """As a program on a terminal of that width; returns its status and what it wrote there."""
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with self.start(
            *arguments, more=more, stdin=theirs, stdout=theirs, stderr=theirs, bufsize=0
        ) as program:
            os.close(theirs)
            if typed:
                os.write(ours, typed.encode())
            written = _read_all(ours)
            os.close(ours)
            return program.wait(SECONDS), written.replace("\r\n", "\n")


def _read_all(descriptor: int) -> str:
    pieces = []
    while True:
        try:
            piece = os.read(descriptor, 1 << 16)
        except OSError:
            break  # EIO: nobody has the other end open any more
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()
