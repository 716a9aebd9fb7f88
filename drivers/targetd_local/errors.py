"""What goes wrong on the attaching host: one class per thing that a caller would do about it."""

from __future__ import annotations


class LocalError(Exception):
    """``left``: what was begun and could not be undone, one line each."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.left: list[str] = []


class Invalid(LocalError):
    """The call itself is wrong; the message names the part."""


class NotPossible(LocalError):
    """This host lacks something; the message says how to get it."""


class NotRoot(NotPossible):
    """Disks come and go by root."""


class Refused(LocalError):
    """As things are on this host it would harm somebody; the message says whom."""


class InUse(Refused):
    """The disk is mounted, open or held; the message says by what."""


class LoginFailed(LocalError):
    """No portal let this host in, or none answered."""


class DiskMissing(LocalError):
    """The session is there, and its disk did not come in time."""


class WrongDisk(LocalError):
    """The disk behind the target says that it is another volume."""


class ProgramFailed(LocalError):
    """A program of this host ended with an unexpected status, or not in time."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(LocalError):
    """The caller asked to stop; what was done has been undone."""


class AttachdError(LocalError):
    """attachd's own refusal, in its words; ``code`` is the HTTP status."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(LocalError):
    """No answer of attachd. What was asked for may yet be done, if it was ``sent``."""

    def __init__(self, message: str, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent
