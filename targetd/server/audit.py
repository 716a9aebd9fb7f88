"""One line for each call that changes something, and for each that was not allowed.

It goes to the logger ``targetd.audit``, readable as it is and with the same things
as fields of the record. What a request holds is shown only where it has the form
that it should have, and escaped and shortened otherwise. Nothing else of a request,
and nothing of an answer, is looked at: those hold secrets.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from targetd.server.clients import Client
from targetd.validation import ATTACHMENT_ID, INITIATOR, INITIATOR_LENGTH_MAX, UUID

log = logging.getLogger("targetd.audit")

MESSAGE = "%s%s by %s (%s, %s): %s in %s ms"
SHOWN_LENGTH_MAX = 64
PATTERNS = {"volume_id": UUID, "snapshot_id": UUID, "attachment_id": ATTACHMENT_ID}


def record(
    client: Client, peer: str, method: str, request: Any, outcome: str, seconds: float
) -> None:
    """``outcome`` is ``OK``, or the code and the reason of the refusal."""
    things = things_of(request)
    shown = "".join([f" {key}={value}" for key, value in things.items() if value])
    name = method[method.rfind("/") + 1 :]
    milliseconds = round(seconds * 1000, 1)
    # As Logger.info with ``extra``, for half its price: that looks for its caller. Nor is
    # the level asked: ``log_level`` quiets the daemon, not its audit.
    line = logging.LogRecord(
        log.name,
        logging.INFO,
        __file__,
        0,
        MESSAGE,
        (name, shown, client.identity, client.role.value, peer, outcome, milliseconds),
        None,
        "record",
    )
    line.__dict__.update(
        things,
        identity=client.identity,
        role=client.role.value,
        peer=peer,
        method=method[1:],
        outcome=outcome,
        duration_ms=milliseconds,
    )
    log.handle(line)


def things_of(request: Any) -> dict[str, str]:
    """What the request is about; empty where it does not say."""
    things = {"volume_id": "", "snapshot_id": "", "attachment_id": "", "initiator": ""}
    for key in _fields(request.__class__):
        if key == "connector":
            initiator = request.connector.initiator
            short = len(initiator) <= INITIATOR_LENGTH_MAX
            things["initiator"] = _shown(initiator, INITIATOR) if short else _escaped(initiator)
        else:
            things[key] = _shown(getattr(request, key), PATTERNS[key])
    return things


@cache
def _fields(kind: type) -> tuple[str, ...]:
    """Those of a message that are shown; an unreadable request has none."""
    descriptor = getattr(kind, "DESCRIPTOR", None)
    names = [field.name for field in descriptor.fields] if descriptor else []
    return tuple(name for name in names if name in PATTERNS or name == "connector")


def _shown(value: str, pattern: re.Pattern[str]) -> str:
    return value if not value or pattern.fullmatch(value) else _escaped(value)


def _escaped(value: str) -> str:
    return ascii(value[:SHOWN_LENGTH_MAX])
