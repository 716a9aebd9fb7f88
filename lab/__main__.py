"""``python -m lab``: boot nodes and use them, without writing a program."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from lab import preconditions
from lab.errors import LabError
from lab.lab import Lab
from lab.node import Node, Spec

MEBIBYTE = 1 << 20
DEFAULT_MEMORY_MIB = 256
HELP = """\
A line is a command for the present node. Besides:
  @NAME            make NAME the present node
  @NAME COMMAND    run one command there
  !cut !restore    the present node's network
  !kill !boot      pull its plug; start it again
  !disk MIB        give it another disk
  !log             what its console printed
  quit             end all nodes
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say whether this machine can run the lab")
    run = commands.add_parser("run", help="boot nodes; run a command, or read commands")
    for one in (check, run):
        one.add_argument("--nodes", type=int, default=1, metavar="N", help="default: 1")
        one.add_argument(
            "--memory", type=int, default=DEFAULT_MEMORY_MIB, metavar="MIB", help="of each node"
        )
    run.add_argument("--disk", type=int, action="append", default=[], metavar="MIB")
    run.add_argument("--systemd", action="store_true", help="systemd as process 1")
    run.add_argument("--folder", type=Path, default=Path("build/lab"), help="for the disks")
    run.add_argument(
        "argv", nargs="*", metavar="COMMAND", help="for every node; without one, a prompt"
    )
    arguments = parser.parse_args()
    try:
        preconditions.check(arguments.nodes * arguments.memory)
        if arguments.command == "check":
            print("ok: this machine can run the lab")
        else:
            sys.exit(_run(arguments))
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit("lab: interrupted; the nodes are gone")


def _run(arguments: argparse.Namespace) -> int:
    specs = [
        Spec(
            f"node{number}",
            disks_bytes=tuple(size * MEBIBYTE for size in arguments.disk),
            memory_mib=arguments.memory,
            systemd=arguments.systemd,
        )
        for number in range(1, arguments.nodes + 1)
    ]
    print(f"booting {len(specs)} node(s) ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    with Lab(arguments.folder.absolute(), specs) as lab:
        print(f"ready in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        if not arguments.argv:
            _prompt(lab)
            return 0
        return max(_show(node, arguments.argv) for node in lab.nodes.values())


def _show(node: Node, argv: list[str]) -> int:
    result = node.run(argv, check=False, timeout_seconds=600)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    return result.status


def _prompt(lab: Lab) -> None:
    node = next(iter(lab.nodes.values()))
    print(HELP)
    while True:
        try:
            line = input(f"{node.name}> ").strip()
        except EOFError:
            return
        if line == "quit":
            return
        where = node
        if line.startswith("@"):
            name, _, line = line[1:].partition(" ")
            if name not in lab.nodes:
                print(f"there is no node {name}; there are {', '.join(lab.nodes)}")
                continue
            where = lab[name]
            if not line:
                node = where
        if line:
            _do(where, line)


def _do(node: Node, line: str) -> None:
    actions = {
        "!cut": node.cut_network,
        "!restore": node.restore_network,
        "!kill": node.power_cut,
        "!boot": node.boot,
        "!log": lambda: print(node.console()),
    }
    try:
        word, *rest = shlex.split(line)
        if word in actions:
            actions[word]()
        elif word == "!disk":
            print(node.add_disk(int(rest[0]) * MEBIBYTE))
        else:
            status = _show(node, [word, *rest])
            if status:
                print(f"status {status}")
    except (LabError, ValueError, IndexError) as error:
        print(f"{line}: {error}")


if __name__ == "__main__":
    main()
