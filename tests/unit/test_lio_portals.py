"""A portal that the kernel refuses, because of a listener that goes or of one that stays."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from targetd.engines import configfs, lio_portals

PORTALS = ("192.0.2.1:3260", "192.0.2.2:3260")


class Kernel:
    """Refuses so many calls, each as it is told."""

    def __init__(self, *refusals: int) -> None:
        self._refusals: Iterator[int] = iter(refusals)
        self.asked: list[str] = []

    def mkdir(self, path: str) -> None:
        self.asked.append(path)
        if number := next(self._refusals, 0):
            raise OSError(number, "refused", path)


def made_with(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(configfs, "mkdir", kernel.mkdir)
    lio_portals.add("tpg", PORTALS)
    return kernel.asked


def test_a_listener_that_goes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(errno.EINVAL, errno.EINVAL)
    first, second = (f"tpg/np/{portal}" for portal in PORTALS)
    assert made_with(kernel, monkeypatch) == [first, first, first, second]


def test_a_listener_that_stays_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lio_portals, "TRY_SECONDS", 0.05)
    kernel = Kernel(*[errno.EINVAL] * 1000)
    with pytest.raises(OSError, match="refused") as raised:
        made_with(kernel, monkeypatch)
    assert raised.value.errno == errno.EINVAL
    assert 2 < len(kernel.asked) < 1000


@pytest.mark.parametrize("refusals", [(errno.ENOSPC,), (errno.EINVAL, errno.EEXIST)])
def test_another_refusal_is_not_tried_again(
    refusals: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(*refusals)
    with pytest.raises(OSError, match="refused") as raised:
        made_with(kernel, monkeypatch)
    assert raised.value.errno == refusals[-1]
    assert len(kernel.asked) == len(refusals)
