"""The guides for operators (docs/README.md), as what they tell to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
INDEX = (DOCS / "README.md").read_text(encoding="utf-8")
_LISTED = re.compile(r"^\| \[(\S+\.md)\]", re.MULTILINE)
_OF_TARGETD, _, _OF_ATTACHD = INDEX.partition("\n## attachd\n")
# In the order in which they are read.
PAGES = _LISTED.findall(_OF_TARGETD)
ATTACHD_PAGES = _LISTED.findall(_OF_ATTACHD)


# Whose names begin a command, where it stands in a sentence or a table.
PROGRAMS = frozenset(
    {
        "apt-get",
        "blockdev",
        "chmod",
        "dmsetup",
        "journalctl",
        "lunctl",
        "lvchange",
        "lvconvert",
        "lvcreate",
    }
    | {"lvextend", "lvremove", "make", "modprobe", "mount", "ps", "pvchange", "pvck", "ss"}
    | {"systemctl", "targetd", "vgcfgrestore", "vgchange", "vgextend", "vgimport", "vgrename"}
)


@dataclass(frozen=True)
class Step:
    """A command, or the content of a file (``kind`` is toml, nft, ...)."""

    page: str
    section: str
    kind: str
    text: str


def steps(page: str) -> Iterator[Step]:
    """Indented lines are commands, in lists too; fenced blocks are what files hold."""
    section, kind = "", ""
    block: list[str] = []
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if kind:
                yield Step(page, section, kind, "\n".join(block))
            kind, block = line.removeprefix("```"), []
        elif kind:
            block.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("    "):
            yield Step(page, section, "command", line.strip())


def commands_in_sentences(page: str) -> list[str]:
    """Those of more than one word; the others name programs."""
    text = re.sub(r"^```.*?^```", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    found = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", text)]
    return [one for one in found if " " in one and one.split()[0] in PROGRAMS]
