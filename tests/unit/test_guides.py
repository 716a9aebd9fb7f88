"""docs/troubleshoot.md names every refusal to start, and no other; links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.pages import DOCS, INDEX, PAGES

PACKAGE = DOCS.parent / "targetd"
PAGE = (DOCS / "troubleshoot.md").read_text(encoding="utf-8")
REFUSALS = {"StartError", "NotReady"}


def _refusals() -> Iterator[str]:
    """What each place that refuses a start says, values left out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in REFUSALS:
                (text,) = node.args
                pieces = text.values if isinstance(text, ast.JoinedStr) else [text]
                yield "".join(
                    str(piece.value) if isinstance(piece, ast.Constant) else "VALUE"
                    for piece in pieces
                )


def _rows() -> list[str]:
    table = PAGE.partition("| it says | do |\n|---|---|\n")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def _matches(row: str, text: str) -> bool:
    return bool(re.match(re.escape(row).replace(re.escape("..."), "VALUE.*?"), text))


def test_every_refusal_to_start_has_its_cure() -> None:
    texts, rows = list(_refusals()), _rows()
    # That a file is wrong in one line, without a key, reads as one with a key.
    texts.remove("VALUE:VALUE")
    assert [text for text in texts if not any(_matches(row, text) for row in rows)] == []
    assert [row for row in rows if not any(_matches(row, text) for text in texts)] == []


@pytest.mark.parametrize("page", ["README.md", *PAGES])
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
