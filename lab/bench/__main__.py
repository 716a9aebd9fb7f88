"""``python -m lab.bench``: measure the daemon on a node of the lab."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lab.bench import cinder
from lab.bench.rows import NOTES, table, write
from lab.bench.run import QUICK, Bench, full
from lab.bench.storage import spec
from lab.errors import LabError
from lab.lab import Lab

LAB_FOLDER = Path("build/lab").absolute()
RESULT = Path("build/bench/daemon.json")
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
    parser.add_argument(
        "--counts",
        type=_counts,
        default=_counts("0,100,1000,3000"),
        help="how many exports stand while it is measured (default: 0,100,1000,3000)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="0 and 100 only, with few repetitions: whether it works, not how fast",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULT, help="where the rows go (default: %(default)s)"
    )
    return parser


def main() -> int:
    given = _parser().parse_args()
    started = time.monotonic()

    def part(name: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {name}", file=sys.stderr, flush=True)

    def say(line: str) -> None:
        print(f"             {line}", file=sys.stderr, flush=True)

    try:
        program = cinder.program(say, install=not given.quick)
        if not program:
            say("cinder-rtstool is not installed and left out; a full run installs it")
        part("booting the node")
        with Lab(LAB_FOLDER, [spec()], progress=say) as lab:
            plan = QUICK if given.quick else full(given.counts)
            bench = Bench(lab, plan, program, part, say)
            bench.run()
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; the node is gone, nothing is left behind", file=sys.stderr)
        return INTERRUPTED_STATUS
    part("done")
    write(bench.rows, given.output)
    print(f"{table(bench.rows)}\n\n{NOTES}\n\nWritten to {given.output}.")
    exceeded = [row for row in bench.rows if row.exceeded]
    for row in exceeded:
        print(f"bench: {row.measure} at {row.exports} exports is over its limit", file=sys.stderr)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
