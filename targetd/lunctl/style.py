"""Colour: a few styles, and the words that have one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

# What click.style takes.
Style = Mapping[str, Any]

HEADING: Style = {"bold": True}
ASIDE: Style = {"dim": True}
GOOD: Style = {"fg": "green"}
UNDER_WAY: Style = {"fg": "yellow"}
BAD: Style = {"fg": "red", "bold": True}
# The words that stand for a state, wherever they make up a cell or a line.
STYLES: Mapping[str, Style] = {
    **dict.fromkeys(("available", "logged in", "done", "ok"), GOOD),
    **dict.fromkeys(
        ("copying", "running", "detaching", "granting", "revoking", "warning"), UNDER_WAY
    ),
    **dict.fromkeys(
        ("degraded", "failed", "error", "no access", "no attachment", "overflowed"), BAD
    ),
}


def styled(text: str, style: Style | None = None) -> str:
    """In the style given, or in that of a word for a state."""
    style = STYLES.get(text, {}) if style is None else style
    return click.style(text, **style) if style else text


def colour() -> bool | None:
    """For click: never, or only on a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
