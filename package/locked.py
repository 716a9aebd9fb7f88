"""Print the part of requirements.txt that some packages need, with its versions and hashes.

``locked.py``: what the daemon and its command need to run (project.dependencies).
``locked.py --extra NAME``: that, and what an extra needs to run.
``locked.py NAME...``: what these packages need, and they themselves.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"^[A-Za-z0-9._-]+")


def run_time_names(extra: str = "") -> list[str]:
    """Raises KeyError for an extra that there is not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    more = project["optional-dependencies"][extra] if extra else []
    return [_name(one) for one in (*project["dependencies"], *more)]


def subset(text: str, names: Iterable[str]) -> str:
    """``text`` is as pip-compile writes it: each package says for which others it is there.

    Raises KeyError for a name that is not in it.
    """
    blocks = {_name(block): block for block in re.split(r"\n(?=[A-Za-z0-9])", text.strip())}
    wanted = set()
    found = {_name(name) for name in names}
    while found:
        wanted |= found
        found = {
            name
            for name, block in blocks.items()
            if name not in wanted and not wanted.isdisjoint(_needed_by(block))
        }
    return "".join(f"{blocks[name]}\n" for name in sorted(wanted))


def _needed_by(block: str) -> set[str]:
    _, _, via = block.partition("# via")
    return {_name(line.strip(" #")) for line in via.splitlines() if line.strip(" #")}


def _name(text: str) -> str:
    found = NAME.match(text)
    assert found, f"{text!r} begins with no name of a package"
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def main() -> None:
    parser = argparse.ArgumentParser(prog="locked.py")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--extra", default="")
    arguments = parser.parse_args()
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    print(subset(lock, arguments.names or run_time_names(arguments.extra)), end="")


if __name__ == "__main__":
    main()
