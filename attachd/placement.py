"""Which pool gets a new volume: the one with the most left when all promises are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attachd.errors import Invalid
from attachd.model import Pool

GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Marks:
    """How far a thin pool is filled with new volumes; those it has may grow beyond."""

    # Of what the pool promises, in times of its size.
    over_subscription_max: float = 20.0
    # Of its data and of its metadata, whichever is fuller.
    full_percent_max: float = 90.0


@dataclass(frozen=True)
class Place:
    """``host``, or ``host#pool``; None stands for any."""

    host: str | None = None
    pool: str | None = None

    @classmethod
    def named(cls, text: str | None) -> Place:
        """Raises Invalid."""
        if text is None:
            return cls()
        host, mark, pool = text.partition("#")
        if not host or (mark and not pool):
            raise Invalid(f'place: "{text}" is neither "HOST" nor "HOST#POOL"')
        return cls(host, pool or None)

    def allows(self, pool: Pool) -> bool:
        return self.host in (None, pool.host) and self.pool in (None, pool.name)

    def __str__(self) -> str:
        return "#".join(part for part in (self.host, self.pool) if part)


def objection(pool: Pool, size_bytes: int, marks: Marks) -> str:
    """Why the pool should not get a volume of that size; empty when it may."""
    if not pool.thin:
        if size_bytes > pool.free_bytes:
            return f"has {_gib(pool.free_bytes)} GiB free"
        return ""
    if pool.full_percent >= marks.full_percent_max:
        return f"is {pool.full_percent:.0f} % full"
    if pool.provisioned_bytes + size_bytes > marks.over_subscription_max * pool.total_bytes:
        return (
            f"promises {_gib(pool.provisioned_bytes)} GiB of the "
            f"{_gib(int(marks.over_subscription_max * pool.total_bytes))} GiB that it may"
        )
    return ""


def best(pools: Iterable[Pool], size_bytes: int, marks: Marks) -> Pool | None:
    """The fittest, always the same one of equals; None when none has the room."""
    fit = [pool for pool in pools if not objection(pool, size_bytes, marks)]
    return min(fit, key=lambda pool: (-_left_bytes(pool), pool.host, pool.name), default=None)


def _left_bytes(pool: Pool) -> int:
    """Less than nothing where a thin pool promises more than it has."""
    return pool.total_bytes - pool.provisioned_bytes if pool.thin else pool.free_bytes


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIBIBYTE:.1f}"
