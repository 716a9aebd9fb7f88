"""One line for each call that changes something, and for each that was not allowed.

It goes to the logger ``targetd.audit``, readable as it is and with the same things
as fields of the record. What a request holds is shown only where it has the form
that it should have, and escaped and shortened otherwise. Nothing else of a request,
and nothing of an answer, is looked at: those hold secrets.
"""

from __future__ import annotations

import logging
from typing import Any

from targetd.server.clients import Client
from targetd.validation import ATTACHMENT_ID, INITIATOR, INITIATOR_LENGTH_MAX, UUID

log = logging.getLogger("targetd.audit")
# ``log_level`` quiets the daemon, not its audit.
log.setLevel(logging.INFO)

SHOWN_LENGTH_MAX = 64
PATTERNS = {"volume_id": UUID, "snapshot_id": UUID, "attachment_id": ATTACHMENT_ID}


def record(
    client: Client, peer: str, method: str, request: Any, outcome: str, seconds: float
) -> None:
    """``outcome`` is ``OK``, or the code and the reason of the refusal."""
    things = things_of(request)
    milliseconds = round(seconds * 1000, 1)
    log.info(
        "%s%s by %s (%s, %s): %s in %s ms",
        method.rpartition("/")[2],
        "".join(f" {key}={value}" for key, value in things.items() if value),
        client.identity,
        client.role,
        peer,
        outcome,
        milliseconds,
        extra={
            "identity": client.identity,
            "role": client.role.value,
            "peer": peer,
            "method": method.lstrip("/"),
            **things,
            "outcome": outcome,
            "duration_ms": milliseconds,
        },
    )


def things_of(request: Any) -> dict[str, str]:
    """What the request is about; empty where it does not say."""
    things = {}
    for key, pattern in PATTERNS.items():
        value = getattr(request, key, "")
        things[key] = value if not value or pattern.fullmatch(value) else _escaped(value)
    initiator = getattr(getattr(request, "connector", None), "initiator", "")
    known = len(initiator) <= INITIATOR_LENGTH_MAX and INITIATOR.fullmatch(initiator)
    things["initiator"] = initiator if not initiator or known else _escaped(initiator)
    return things


def _escaped(value: str) -> str:
    return ascii(value[:SHOWN_LENGTH_MAX])
