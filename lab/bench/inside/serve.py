"""A fresh daemon on a rebooted node: its start, and then calls from outside until SIGTERM."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from lab.bench.inside import bare
from lab.bench.inside.population import POOL, DmVolumes
from lab.bench.inside.report import row, run, say, saying
from lab.bench.inside.subject import Subject, config, resident_mebibytes
from targetd.config import TlsConfig

SERVING = "the daemon serves"
CERTIFICATES = Path("/etc/bench")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--exports", type=int, required=True)
    parser.add_argument("--volumes", type=int, required=True)
    parser.add_argument("--portal-address", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--listen", required=True)
    given = parser.parse_args()
    tls = TlsConfig(
        CERTIFICATES / "server.pem", CERTIFICATES / "server.key", CERTIFICATES / "ca.pem"
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    settings = config(given.state, given.portal_address, [POOL], given.listen, tls)
    subject = Subject(settings, DmVolumes(given.volumes))
    with saying(f"the daemon starts with {given.exports} exports"):
        subject.start()
    with subject:
        if bare.standing() != given.exports:
            raise AssertionError(f"{bare.standing()} exports stand instead of {given.exports}")
        row("reconcile", given.exports, subject.reconcile_seconds, "s")
        row("start until serving", given.exports, subject.start_seconds, "s")
        row("daemon: resident memory, fresh", given.exports, resident_mebibytes(), "MiB")
        say(SERVING)
        signal.sigwait([signal.SIGTERM])
        row("daemon: resident memory", given.exports, resident_mebibytes(), "MiB")


if __name__ == "__main__":
    run(main)
