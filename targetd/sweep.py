"""Something done to each of many things, one of which may hang, without waiting for that one.

One thread does it all, since several would mostly wait for each other. When it
has been at one thing for too long, another thread goes on with the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# After so long on one thing another thread goes on with the rest.
PATIENCE_SECONDS = 0.5
# That may hang at once before the rest has to wait.
HANGING_MAX = 16


@dataclass
class Swept(Generic[Item, Outcome]):
    done: list[Outcome] = field(default_factory=list)
    # What was not done in time (it may still be), or failed as nobody expected.
    undone: list[Item] = field(default_factory=list)


class _Runner(Generic[Item, Outcome]):
    def __init__(
        self, todo: deque[Item], work: Callable[[Item], Outcome], swept: Swept[Item, Outcome]
    ) -> None:
        self._todo, self._work, self._swept = todo, work, swept
        self.item: Item | None = None
        self.since = time.monotonic()
        self.replaced = False
        self.thread = threading.Thread(target=self._run, name="sweep", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.replaced:
            try:
                item = self._todo.popleft()
            except IndexError:
                return
            self.since, self.item = time.monotonic(), item
            try:
                self._swept.done.append(self._work(item))
            # The outer loop of a worker: one odd thing must not end the work on all.
            except Exception:
                log.exception("%s failed", item)
                self._swept.undone.append(item)
            self.item = None

    def hangs(self, seconds: float) -> bool:
        return self.item is not None and time.monotonic() - self.since > seconds


def sweep(
    items: Iterable[Item], work: Callable[[Item], Outcome], seconds: float
) -> Swept[Item, Outcome]:
    """Do ``work`` to each item, and give each so many seconds."""
    todo = deque(items)
    swept: Swept[Item, Outcome] = Swept()
    runners = [_Runner(todo, work, swept)]
    while runners:
        runners[-1].thread.join(PATIENCE_SECONDS / 2)
        for runner in [one for one in runners if one.hangs(seconds)]:
            if (item := runner.item) is not None:
                swept.undone.append(item)
            runner.replaced = True
            runners.remove(runner)
        runners = [one for one in runners if one.thread.is_alive()]
        if todo and len(runners) <= HANGING_MAX and all(r.hangs(PATIENCE_SECONDS) for r in runners):
            for runner in runners:
                runner.replaced = True
            runners.append(_Runner(todo, work, swept))
    return swept
