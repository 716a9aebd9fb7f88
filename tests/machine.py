"""What the steps of random histories share: the host, its model, and what was seen so far."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from tests.answers import answer_of
from tests.hosts import INITIATORS, Host
from tests.model import CODES, DONE, Model

# Few of each, so that histories meet themselves.
VOLUME_IDS = tuple(str(uuid.UUID(int=number << 96 | 0x4000 << 64)) for number in range(1, 6))
# The last one is a name only: it is given access, and never logs in.
HOSTS = (*INITIATORS, "c")

Seen = Counter[tuple[str, str]]
Option = TypeVar("Option")


class Chance(Protocol):
    """What decides."""

    def pick(self, options: Sequence[Option]) -> Option: ...


class Drawn:
    """Hypothesis decides, and looks for a simpler history once one has failed."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def pick(self, options: Sequence[Option]) -> Option:
        return self._data.draw(st.sampled_from(options))


class Rolled:
    """The dice: evenly, and so many steps that something is seen of everything."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def pick(self, options: Sequence[Option]) -> Option:
        return self._random.choice(options)


class Steps(RuleBasedStateMachine):
    def __init__(self, host: Host, seen: Seen, holds_copies: bool) -> None:
        super().__init__()
        # On the real host copies cannot be told to wait.
        self.holds_copies = holds_copies
        self.host = host
        self.model = Model()
        self.seen = seen

    def ask(self, name: str, reason: str, method: Callable[..., Any], request: Any) -> Any:
        """Make a call that must be answered as the model has judged."""
        found, answer = answer_of(method, request)
        self.seen[name, found] += 1
        assert found == reason, f"{name}: {found or 'done'}, not {reason or 'done'}: {answer}"
        if reason == DONE:
            return answer
        assert answer.code() is CODES[reason]
        return None

    def volume_id(self, chance: Chance) -> str:
        """Those that copies go on to or from more often still: they go by soon."""
        copying = {one for one, volume in self.model.volumes.items() if volume.copying}
        sources = {self.model.volumes[one].source for one in copying}
        origins = {source[1] for source in sources if source and source[0] == "volume"}
        return chance.pick(
            mostly(self.model.volumes, [*VOLUME_IDS, *sorted(copying) * 6, *sorted(origins) * 6])
        )

    def new_volume_id(self, chance: Chance) -> str:
        return chance.pick(mostly(set(VOLUME_IDS) - self.model.volumes.keys(), VOLUME_IDS))

    def initiator(self, host: str) -> str:
        if host in INITIATORS:
            return self.host.backing.initiator(host)
        return f"iqn.2026-01.org.example.lab:{host}"


def mostly(there: Iterable[str], any_of: Iterable[str]) -> list[str]:
    """Mostly what is there: calls for what is not are all alike."""
    return [*sorted(there) * 3, *any_of]
