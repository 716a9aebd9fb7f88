"""The one place that runs programs of this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from lab.errors import CommandFailed, CommandTimeout

TIMEOUT_SECONDS = 15.0


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    check: bool = True,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Raises CommandFailed when ``check`` and the status is not 0, and CommandTimeout."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandTimeout(f"{' '.join(argv)}: not done in {timeout_seconds:g} s") from None
    if check and done.returncode:
        raise CommandFailed(argv, done.returncode, done.stderr or done.stdout)
    return done
