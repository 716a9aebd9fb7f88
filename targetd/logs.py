"""Where the log goes: to the journal with fields, or as plain lines to a terminal or a pipe.

A field of the journal comes from ``extra=`` of a log call, or from what the
work is about (see context); docs/monitoring.md names them all.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from logging_journald import JournaldTransport, check_journal_stream

from targetd import context

IDENTIFIER = "targetd"
# Attributes of a record that become fields, with the fields' names in the journal.
FIELDS = {
    "volume_id": "VOLUME_ID",
    "snapshot_id": "SNAPSHOT_ID",
    "attachment_id": "ATTACHMENT_ID",
    "operation_id": "OPERATION_ID",
    "method": "METHOD",
    "initiator": "INITIATOR",
    "identity": "CLIENT",
    "role": "ROLE",
    "peer": "PEER",
    "outcome": "OUTCOME",
    "duration_ms": "DURATION_MS",
    "incident": "INCIDENT",
    # Of attachd.
    "request_id": "REQUEST_ID",
    "project_id": "PROJECT_ID",
}
# From syslog(3): the least severe level of Python that has the priority.
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG_PRIORITY = 7
LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def setup(level: str, identifier: str = IDENTIFIER) -> None:
    """Send all that the process logs to the journal where systemd listens, else to stderr."""
    in_journal = check_journal_stream()
    handler = JournalHandler(identifier=identifier) if in_journal else lines(sys.stderr)
    handler.addFilter(add_subject)
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Any time; ``level`` as in the configuration."""
    logging.getLogger().setLevel(level.upper())


def lines(stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(LINE))
    return handler


def add_subject(record: logging.LogRecord) -> bool:
    """A filter that keeps all, and puts on each what the work is about."""
    for name, value in context.current().fields.items():
        # What the log call itself said is the more exact.
        if value and not hasattr(record, name):
            setattr(record, name, value)
    return True


def fields(record: logging.LogRecord) -> dict[str, str]:
    """The fields of a record, by their names in the journal."""
    found = ((field, getattr(record, name, None)) for name, field in FIELDS.items())
    return {field: str(value) for field, value in found if value not in (None, "")}


def priority(level: int) -> int:
    return next((found for least, found in PRIORITIES if level >= least), DEBUG_PRIORITY)


class LineFormatter(logging.Formatter):
    """A line as people read it; fields that the message does not name stand behind it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        unsaid = [
            f"{name}={value}"
            for name, value in fields(record).items()
            if value not in record.getMessage()
        ]
        return f"{line} [{' '.join(unsaid)}]" if unsaid else line


class JournalHandler(logging.Handler):
    """Sends records by the journal's native protocol, as datagrams or, long ones, as a sealed file.

    What the journal does not take (it is being restarted) goes to stderr.
    """

    def __init__(
        self, transport: JournaldTransport | None = None, identifier: str = IDENTIFIER
    ) -> None:
        super().__init__()
        self._identifier = identifier
        # Not connected: the socket is another one after the journal's restart.
        self._transport = transport or JournaldTransport(connected=False)
        self.instead = lines(sys.stderr)

    def close(self) -> None:
        self._transport.socket.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._transport.send(self._fields(record))
        # A text that is no UTF-8 is a ValueError.
        except (OSError, ValueError):
            self.instead.emit(record)

    def _fields(self, record: logging.LogRecord) -> list[tuple[str, Any]]:
        return [
            ("MESSAGE", self.format(record)),
            ("PRIORITY", priority(record.levelno)),
            ("SYSLOG_IDENTIFIER", self._identifier),
            ("LOGGER", record.name),
            ("CODE_FILE", record.pathname),
            ("CODE_LINE", record.lineno),
            ("CODE_FUNC", record.funcName or ""),
            ("THREAD_NAME", record.threadName or ""),
            *fields(record).items(),
        ]
