"""Exports on an empty kernel, as after a reboot: by bare writes, or by targetctl restore.

The bare ones are taken away again, so that the daemon can follow in the same
boot, and on a machine that is as busy as it was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from lab.bench.inside import bare
from lab.bench.inside.report import Progress, row, run, saying


def _bare(count: int, portal: str) -> float:
    progress = Progress("bare writes", count)
    started = time.perf_counter()
    for number in range(count):
        bare.attach(number, portal)
        progress(number)
    return time.perf_counter() - started


def _remove(count: int, portal: str) -> None:
    progress = Progress("removing them", count)
    for number in range(count):
        bare.detach(number, portal)
        progress(number)


def _targetctl(saved: str) -> float:
    # Of the rtslib that saved the file: an older one does not read what a newer one wrote.
    os.makedirs("/etc/target", exist_ok=True)
    program = os.path.join(os.path.dirname(sys.executable), "targetctl")
    with saying("targetctl restore"):
        started = time.perf_counter()
        subprocess.run([program, "restore", saved], check=True)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--exports", type=int, required=True)
    parser.add_argument("--portal-address", required=True)
    parser.add_argument("--saved", default="")
    given = parser.parse_args()
    portal = f"{given.portal_address}:3260"
    os.makedirs(bare.ISCSI, exist_ok=True)
    seconds = _targetctl(given.saved) if given.saved else _bare(given.exports, portal)
    # The file was saved with the one export that rtslib had just made.
    if bare.standing() - given.exports not in (0, 1):
        raise AssertionError(f"{bare.standing()} exports stand instead of {given.exports}")
    name = "targetctl restore" if given.saved else "bare reconcile"
    row(name, given.exports, seconds, "s")
    if not given.saved:
        _remove(given.exports, portal)


if __name__ == "__main__":
    run(main)
