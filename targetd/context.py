"""What the work of this thread is about: its method, volume, snapshot, attachment; since when.

Whoever begins a piece of work says so once; the log and the flight recorder
then know it wherever they are reached from.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from time import monotonic
from typing import NamedTuple


class Subject(NamedTuple):
    # Of the names in ``logs.FIELDS``. None of them ever holds a secret.
    fields: Mapping[str, str]
    # When the work began, monotonic.
    started: float


NOTHING = Subject({}, monotonic())
_subject: ContextVar[Subject] = ContextVar("subject", default=NOTHING)
# A call of it costs next to nothing, on the way of every write to configfs.
current = _subject.get


class about:
    """As a context: the work inside is about this, and what it was about before."""

    def __init__(self, **fields: str) -> None:
        self._fields = fields
        self._before: Token[Subject] | None = None

    def __enter__(self) -> Subject:
        subject = Subject({**_subject.get().fields, **self._fields}, monotonic())
        self._before = _subject.set(subject)
        return subject

    def __exit__(self, *_: object) -> None:
        assert self._before is not None, "entered"
        _subject.reset(self._before)
