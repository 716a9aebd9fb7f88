"""What the engines refuse, in the words that callers get; the details go to the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from targetd.engines.interface import EngineError, NameTaken, NoSpace, StillInUse
from targetd.errors import FailedPrecondition, ResourceExhausted, Unavailable

log = logging.getLogger(__name__)


@contextmanager
def engine_refusals(what: str, **metadata: str) -> Iterator[None]:
    """Translate an engine's refusal of ``what`` ("LVM did not create volume x").

    Raises ResourceExhausted, FailedPrecondition (DEVICE_IN_USE, NAME_TAKEN) or Unavailable.
    """
    try:
        yield
    except NoSpace as error:
        raise ResourceExhausted(
            f"{what}: {error}; extend the pool or delete volumes", **metadata
        ) from error
    except StillInUse as error:
        raise FailedPrecondition(
            f"{what}: it is held open on the storage host; close what uses its device",
            reason="DEVICE_IN_USE",
            **metadata,
        ) from error
    except NameTaken as error:
        raise FailedPrecondition(
            f"{what}: {error} is there already; choose another name or id, or rename it",
            reason="NAME_TAKEN",
            **metadata,
        ) from error
    except EngineError as error:
        log.error("%s: %s", what, error)
        raise Unavailable(f"{what}; the log says why", **metadata) from error
