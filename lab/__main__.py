"""``python -m lab``: boot nodes and use them, or see whether this machine can."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lab import preconditions
from lab.errors import CommandTimeout, LabError, NodeDown
from lab.lab import Lab
from lab.node import Disk, Node, Spec

FIRST = "storage"
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
COMMAND_SECONDS = 3600.0
DESCRIPTION = """\
Nodes are User Mode Linux kernels on a network of their own: real LVM, LIO and
open-iscsi, without modules or virtualisation on this machine. A node sees this
machine's files, read-only; what it writes is gone when it ends, but for /media.
"""
EXAMPLES = """\
examples:
  python -m lab check
  python -m lab run --disk 4G -- lsblk
  python -m lab run --nodes 3 --disk 4G          (a prompt; @host1 goes to that node)
  python -m lab run --systemd -- journalctl -b --no-pager
"""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        status: int = given.action(given)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say whether this machine can run the lab")
    run = actions.add_parser("run", help="boot nodes, and run a command or a prompt on one")
    for action in (check, run):
        action.add_argument(
            "--nodes", type=_count, default=1, metavar="N", help="how many nodes (default: 1)"
        )
        action.add_argument(
            "--memory", type=_count, default=256, metavar="MIB", help="of each node (default: 256)"
        )
    run.add_argument(
        "--disk",
        type=_size,
        action="append",
        default=[],
        metavar="SIZE",
        help="a disk of the first node, as 512M or 4G; may be repeated",
    )
    run.add_argument("--systemd", action="store_true", help="systemd as process 1 of the nodes")
    run.add_argument(
        "--node", default=FIRST, metavar="NAME", help="where to run: storage (default), host1, ..."
    )
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    check.set_defaults(action=_check)
    run.set_defaults(action=_run)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 512M or 4G")
    return int(match[1]) << UNITS[match[2]]


def _check(given: argparse.Namespace) -> int:
    preconditions.check(given.nodes * given.memory)
    print(f"lab: ready for {given.nodes} node(s) of {given.memory} MiB")
    return 0


def _run(given: argparse.Namespace) -> int:
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    names = [FIRST, *(f"host{number}" for number in range(1, given.nodes))]
    if given.node not in names:
        raise LabError(f"there is no node {given.node}; the nodes are {', '.join(names)}")
    disks = tuple(Disk(f"disk{n}", size) for n, size in enumerate(given.disk))
    specs = [
        Spec(name, memory_mib=given.memory, systemd=given.systemd, disks=disks * (name == FIRST))
        for name in names
    ]
    started = time.monotonic()
    _progress(f"booting {len(specs)} node(s)")
    with (
        tempfile.TemporaryDirectory(prefix="lab-") as folder,
        Lab(Path(folder), specs, progress=_progress) as lab,
    ):
        _progress(f"ready after {time.monotonic() - started:.1f} s")
        if command:
            return _run_once(lab[given.node], command)
        return _prompt(lab, given.node)


def _run_once(node: Node, command: Sequence[str]) -> int:
    done = node.run(command, check=False, timeout_seconds=COMMAND_SECONDS)
    sys.stdout.buffer.write(done.out)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(done.err)
    # A signal's number is negative here; a shell has it as 128 + N.
    return done.status if done.status >= 0 else 128 - done.status


def _prompt(lab: Lab, name: str) -> int:
    """A line is a shell command in the node; an empty input ends."""
    _progress(f"nodes: {', '.join(lab.nodes)}; @NAME goes to a node, end of input leaves")
    status = 0
    while True:
        print(f"{name}# ", end="", flush=True, file=sys.stderr)
        line = sys.stdin.readline()
        if not line or line.strip() == "exit":
            return status
        word = line.strip()
        if not word:
            continue
        if word.startswith("@"):
            name = _other(lab, name, word[1:])
            continue
        try:
            status = _run_once(lab[name], ["sh", "-c", line])
        except (CommandTimeout, NodeDown) as error:
            _progress(str(error))


def _other(lab: Lab, name: str, wanted: str) -> str:
    if wanted in lab.nodes:
        return wanted
    _progress(f"there is no node {wanted}; the nodes are {', '.join(lab.nodes)}")
    return name


def _progress(line: str) -> None:
    print(f"lab: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
