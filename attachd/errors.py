"""What a request is refused with: one class per thing that a caller would do about it.

Each message says what is wrong and what helps; ``code`` is the HTTP status that the
field's clients know it by.
"""

from __future__ import annotations

from targetd_driver import errors as driver


class AttachError(Exception):
    code = 500


class Invalid(AttachError):
    """The request itself is wrong; the message names the part."""

    code = 400


class NotAllowed(AttachError):
    """The caller may not do that."""

    code = 403


class NotFound(AttachError):
    """There is none, or it is another project's."""

    code = 404

    def __init__(self, kind: str, id_: str) -> None:
        super().__init__(f"{kind} {id_} could not be found.")


class WrongStatus(AttachError):
    """The state machine has no such step from where the record is (docs/attachments.md)."""

    code = 400


class InUse(AttachError):
    """Something lives on it; the message names what, and how to end that."""

    code = 409


class Busy(AttachError):
    """Another operation is at work on the volume; the message says since when. Try again."""

    code = 409


class NoRoom(AttachError):
    """No storage host has the space, or the pool is over its mark."""

    code = 413


class HostRefused(AttachError):
    """The storage host will not do it as things are; the message is the host's own."""

    code = 409


class HostUnavailable(AttachError):
    """The storage host is down, late or busy, and nothing was left behind there."""

    code = 503


class OutcomeUnknown(AttachError):
    """The storage host has not answered, and what it did is being found out and taken back."""

    code = 504


class RecordsUnavailable(AttachError):
    """attachd's own database does not answer."""

    code = 503


def of_driver(error: driver.DriverError, host: str) -> AttachError:
    """What a driver call raised, as the answer to a request."""
    text = f"storage host {host}: {error}"
    if isinstance(error, driver.InvalidInput):
        return Invalid(text)
    if isinstance(error, driver.Refused):
        return HostRefused(text)
    if isinstance(error, driver.NotFound):
        return HostRefused(f"{text}; its records and those of attachd differ: see attachd explain")
    if isinstance(error, driver.NoSpace):
        return NoRoom(text)
    if isinstance(error, driver.Unavailable):
        return HostUnavailable(text)
    return AttachError(text)
