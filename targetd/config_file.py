"""A TOML file whose errors name the line and the key, and whose unknown keys are refused."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from targetd.errors import StartError

# How to get to a value: names of tables and keys, and places in lists.
KeyPath = tuple[str | int, ...]
# What tomllib says at the end of its messages.
SYNTAX_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Table:
    """One table of the file; remembers which keys were asked for."""

    def __init__(self, path: Path, text: str, place: KeyPath, values: Mapping[str, Any]) -> None:
        self._path, self._text, self._place = path, text, place
        self._values = dict(values)

    def error(self, key: str, text: str) -> StartError:
        """Names the line where the key is given, or else that of its table."""
        place = (*self._place, key)
        line = line_of(self._text, place) or line_of(self._text, self._place)
        where = f"{self._path}:{line}" if line else str(self._path)
        return StartError(f"{where}: {_shown(place)}: {text}")

    def _take(self, key: str, default: Any) -> Any:
        return self._values.pop(key, default)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise self.error(key, "must be a text, and is needed")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of the choices, the first of which is the default."""
        value = self.text(key, choices[0])
        if value not in choices:
            raise self.error(key, f"must be one of: {', '.join(sorted(choices))}")
        return value

    def path(self, key: str, default: Path | None = None) -> Path:
        path = Path(self.text(key, str(default) if default else None))
        if not path.is_absolute():
            raise self.error(key, "must be an absolute path")
        return path

    def integer(self, key: str, default: int) -> int:
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "must be a whole number")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def names(self) -> list[str]:
        """The keys that nobody has asked for yet, where any name may be a key."""
        return list(self._values)

    def texts(self, key: str) -> list[str]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(key, 'must be a list of texts, like ["192.0.2.1"]')
        return value

    def table(self, key: str) -> Table | None:
        value = self._take(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table: [{key}]")
        return Table(self._path, self._text, (*self._place, key), value)

    def tables(self, key: str) -> list[Table]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.error(key, f"must be a list of tables: [[{key}]]")
        return [
            Table(self._path, self._text, (*self._place, key, index), one)
            for index, one in enumerate(value)
        ]

    def end(self) -> None:
        """Raises StartError for the first key that nobody asked for."""
        for key in self._values:
            raise self.error(key, "is not a known key; see the commented example configuration")


def read(path: Path) -> Table:
    """Raises StartError where it cannot be read, or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"the configuration {path} cannot be read: {error}") from error
    try:
        return Table(path, text, (), tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"{path}:{_syntax_error(str(error), text)}") from error


def _syntax_error(message: str, text: str) -> str:
    found = SYNTAX_PLACE.search(message)
    if found is None:
        return f" {message}"
    said = SYNTAX_PLACE.sub("", message)
    if found[1] is None:
        return f"{len(text.rstrip().splitlines()) or 1}: {said} at the end of the file"
    return f"{found[1]}: {said} in column {found[2]}"


def line_of(text: str, place: KeyPath) -> int | None:
    """The line on which the statement begins that brings this place into a valid document.

    No library keeps both values and lines (tomllib, tomli and tomlkit do not), so
    the beginning of the document, which is a document too wherever a statement
    ends, is parsed again line by line until it has the place. Only an error
    needs it.
    """
    if not place:
        return None
    # Not splitlines: to TOML only these end a line.
    lines = text.replace("\r\n", "\n").split("\n")
    complete = 0
    for count in range(1, len(lines) + 1):
        try:
            values = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            # In the middle of a list or a text of several lines.
            continue
        if _has(values, place):
            return complete + 1
        complete = count
    return None


def _has(values: Any, place: KeyPath) -> bool:
    for step in place:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _shown(place: KeyPath) -> str:
    """As in ``pool[1].wipe``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")
