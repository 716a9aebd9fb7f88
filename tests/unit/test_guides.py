"""The guides name every refusal to start, and no other; links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.pages import ATTACHD_PAGES, DOCS, INDEX, PAGES

ROOT = DOCS.parent
REFUSALS = {"StartError", "NotReady", "RecordsUnavailable"}
# What attachd has of targetd's that may refuse its start.
SHARED = [ROOT / "targetd" / "config_file.py", ROOT / "targetd" / "secretbox.py"]
# These are of a running attachd.
LATER = {
    "all connections to the database are in use; try again later",
    "the host key does not open the stored secrets; restore the key file that belongs to this "
    "state, or remove the state to drop all connections",
}


def _refusals(paths: Iterable[Path]) -> Iterator[str]:
    """What each place that refuses a start says, values left out."""
    for path in sorted(paths):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in REFUSALS:
                (text,) = node.args
                pieces = text.values if isinstance(text, ast.JoinedStr) else [text]
                yield "".join(
                    str(piece.value) if isinstance(piece, ast.Constant) else "VALUE"
                    for piece in pieces
                )


def _rows(page: str, section: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {section}\n")[2]
    table = text.partition("| it says | do |\n|---|---|\n")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def _matches(row: str, text: str) -> bool:
    return bool(re.match(re.escape(row).replace(re.escape("..."), "VALUE.*?"), text))


def _agree(texts: list[str], rows: list[str]) -> None:
    # That a file is wrong in one line, without a key, reads as one with a key.
    texts.remove("VALUE:VALUE")
    assert [text for text in texts if not any(_matches(row, text) for row in rows)] == []
    assert [row for row in rows if not any(_matches(row, text) for text in texts)] == []


def test_every_refusal_to_start_has_its_cure() -> None:
    texts = list(_refusals((ROOT / "targetd").rglob("*.py")))
    _agree(texts, _rows("troubleshoot.md", "The daemon does not start"))


def test_every_refusal_of_attachd_to_start_has_its_cure() -> None:
    texts = list(_refusals([*(ROOT / "attachd").rglob("*.py"), *SHARED]))
    assert set(texts) >= LATER
    _agree(
        [text for text in texts if text not in LATER], _rows("attachd.md", "attachd does not start")
    )


@pytest.mark.parametrize("page", ["README.md", *PAGES, *ATTACHD_PAGES])
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        path = DOCS / (name or page)
        assert path.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_every_page_is_listed() -> None:
    listed = set(re.findall(r"\]\((\S+?)\)", INDEX))
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} <= listed
