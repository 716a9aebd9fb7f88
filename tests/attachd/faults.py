"""A storage host's driver that fails where a test says, before or after the real call."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from targetd_driver import DriverError, Late, Refused, TargetdDriver


class Killed(BaseException):
    """The process is no more: nothing that handles errors sees it."""


class Drivers(Protocol):
    def driver(self, name: str) -> TargetdDriver: ...

    def exported(self, name: str) -> set[str]: ...


# What is done instead of a call: it gets the call.
Fault = Callable[[Callable[[], Any]], Any]


def refused(call: Callable[[], Any]) -> Any:
    raise Refused("the host will not", "TEST", answered=True)


def late_undone(call: Callable[[], Any]) -> Any:
    """The request never came."""
    raise Late("no answer in time")


def late_done(call: Callable[[], Any]) -> Any:
    """The answer never came."""
    call()
    raise Late("no answer in time")


def broken(call: Callable[[], Any]) -> Any:
    call()
    raise DriverError("internal error 1234")


def killed_before(call: Callable[[], Any]) -> Any:
    raise Killed


def killed_after(call: Callable[[], Any]) -> Any:
    call()
    raise Killed


class Hang:
    """The call stays away until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()

    def __call__(self, call: Callable[[], Any]) -> Any:
        self.reached.set()
        assert self.released.wait(60)
        return call()


class FaultyDrivers:
    """``faults["initialize_connection"].append(late_done)``: for the next call of that name.

    None lets one go through.
    """

    def __init__(self, real: Drivers) -> None:
        self._real = real
        self.faults = defaultdict[str, deque[Fault | None]](deque)
        # Names of the calls that were made, also those that failed.
        self.calls: list[str] = []

    def driver(self, name: str) -> TargetdDriver:
        return cast(TargetdDriver, _Faulty(self._real.driver(name), self))

    def exported(self, name: str) -> set[str]:
        return self._real.exported(name)

    def unreachable(self) -> None:
        """All that is called from now on has no answer, and is not done."""
        for name in ("create_export", "initialize_connection", "terminate_connection"):
            self.faults[name].extend([late_undone] * 100)

    def heal(self) -> None:
        self.faults.clear()


class _Faulty:
    def __init__(self, real: TargetdDriver, drivers: FaultyDrivers) -> None:
        self._real = real
        self._drivers = drivers

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self._drivers.calls.append(name)
            planned = self._drivers.faults[name]
            fault = planned.popleft() if planned else None
            if fault is None:
                return found(*arguments, **named)
            return fault(lambda: found(*arguments, **named))

        return call


@contextmanager
def next_answers(owner: object, name: str, *faults: Fault) -> Iterator[None]:
    """The next calls of that name fail so; those after them do not."""
    real, planned = getattr(owner, name), list(faults)

    def call(*arguments: Any, **named: Any) -> Any:
        fault = planned.pop(0) if planned else None
        if fault is None:
            return real(*arguments, **named)
        return fault(lambda: real(*arguments, **named))

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name)
