"""``python -m lab.bench``: measure the daemon on a node of the lab, and attachd over such a one."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.bench import cinder, rows
from lab.bench.attachd import calls, many
from lab.bench.attachd import rows as attachd_rows
from lab.bench.attachd.api import ApiError
from lab.bench.run import QUICK, Bench, full
from lab.bench.storage import spec
from lab.errors import LabError
from lab.lab import Lab

LAB_FOLDER = Path("build/lab").absolute()
RESULTS = Path("build/bench")
INTERRUPTED_STATUS = 130


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0 or max(counts) > 3000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list like 0,100,1000 up to 3000")
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.bench", description=__doc__)
    parser.add_argument("--only", choices=list(MEASURED), help="leave out the other")
    parser.add_argument(
        "--counts",
        type=_counts,
        default=_counts("0,100,1000,3000"),
        help="how many exports the daemon has while it is measured (default: 0,100,1000,3000)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="little of everything, with few repetitions: whether it works, not how fast",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="where the rows go (default: %(default)s)",
    )
    return parser


class Told:
    """On stderr, while the results go to stdout."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def part(self, name: str) -> None:
        passed = time.monotonic() - self._started
        print(f"[{passed:6.1f} s] {name}", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        print(f"             {line}", file=sys.stderr, flush=True)


def _daemon(given: argparse.Namespace, told: Told) -> bool:
    """Returns whether all limits were kept."""
    program = cinder.program(told.say, install=not given.quick)
    if not program:
        told.say("cinder-rtstool is not installed and left out; a full run installs it")
    told.part("booting the node")
    with Lab(LAB_FOLDER, [spec()], progress=told.say) as lab:
        plan = QUICK if given.quick else full(given.counts)
        bench = Bench(lab, plan, program, told.part, told.say)
        bench.run()
    output = given.results / "daemon.json"
    rows.write(bench.rows, output)
    print(f"{rows.table(bench.rows)}\n\n{rows.NOTES}\n\nWritten to {output}.")
    exceeded = [row for row in bench.rows if row.exceeded]
    for row in exceeded:
        print(f"bench: {row.measure} at {row.exports} exports is over its limit", file=sys.stderr)
    return not exceeded


def _attachd(given: argparse.Namespace, told: Told) -> bool:
    """Returns whether all limits were kept."""
    with_cinder = bool(cinder.program(told.say, install=not given.quick))
    if not with_cinder:
        told.say("cinder is not installed and left out; a full run installs it")
    comparison = calls.Comparison(
        LAB_FOLDER,
        calls.QUICK if given.quick else calls.FULL,
        with_cinder,
        told.part,
        told.say,
    )
    comparison.run()
    scale = many.Scale(many.QUICK if given.quick else many.FULL, told.part, told.say)
    scale.run()
    found = [*comparison.rows, *scale.rows]
    output = given.results / "attachd.json"
    attachd_rows.write(found, output)
    print(f"{attachd_rows.table(found)}\n\n{attachd_rows.NOTES}\n\nWritten to {output}.")
    exceeded = [row for row in found if row.exceeded]
    for row in exceeded:
        print(f"bench: {row.measure} with {row.count} {row.per} is over its limit", file=sys.stderr)
    return not exceeded


MEASURED: dict[str, Callable[[argparse.Namespace, Told], bool]] = {
    "daemon": _daemon,
    "attachd": _attachd,
}


def main() -> int:
    given = _parser().parse_args()
    told = Told()
    try:
        kept = [
            measure(given, told) for name, measure in MEASURED.items() if given.only in (None, name)
        ]
    except (LabError, ApiError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; the node is gone, nothing is left behind", file=sys.stderr)
        return INTERRUPTED_STATUS
    told.part("done")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
