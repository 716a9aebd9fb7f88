"""What a client may be, and how a certificate says it."""

from __future__ import annotations

from enum import StrEnum

URN_PREFIX = "urn:targetd:role:"


class Role(StrEnum):
    """From the least to the most. ``NONE`` may call nothing, not even the health service."""

    NONE = "none"
    VIEWER = "viewer"
    ATTACHER = "attacher"
    ADMIN = "admin"

    @property
    def urn(self) -> str:
        """The URI among the alternative names of a client's certificate."""
        return f"{URN_PREFIX}{self.value}"


RANK = {role: rank for rank, role in enumerate(Role)}


def least(roles: list[Role]) -> Role:
    """Of names that say different things the most careful is believed; of none, ``NONE``."""
    return min(roles, key=RANK.__getitem__, default=Role.NONE)
