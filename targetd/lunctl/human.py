"""How people read it: sizes, times, shares, and the words for states."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
BAR_CELLS = 20


def size(count: int) -> str:
    """As short as it can be and still be right: 10 GiB, 1.5 GiB, 10.04 GiB."""
    value, unit = float(count), 0
    while abs(value) >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.2f}".rstrip("0").rstrip(".") + f" {UNITS[unit]}"


def moment(timestamp: Timestamp) -> str:
    """In the time zone of whoever reads it; empty when unset."""
    if not timestamp.seconds:
        return ""
    return datetime.fromtimestamp(timestamp.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 100.0


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A share in percent, in characters that the output can have."""
    full, empty = ("█", "░") if _has_blocks() else ("#", "-")
    filled = min(cells, max(0, round(share * cells / 100)))
    return full * filled + empty * (cells - filled)


def _has_blocks() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "") == "utf8"


def clean(text: str) -> str:
    """Without what would move the cursor or change colours of a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def volume_state(volume: volume_pb2.Volume) -> str:
    return _word(volume_pb2.VolumeState, volume.state)


def provisioning(value: int) -> str:
    return _word(volume_pb2.Provisioning, value)


def wipe_policy(value: int) -> str:
    return _word(volume_pb2.WipePolicy, value)


def access_mode(value: int) -> str:
    return _word(export_pb2.AccessMode, value)


def connection_state(connection: export_pb2.Connection) -> str:
    """What its state and its session come to, in two or three words."""
    if connection.state != export_pb2.CONNECTION_STATE_GRANTED:
        return _word(export_pb2.ConnectionState, connection.state)
    if not connection.authorized:
        return "no access"
    return "logged in" if connection.logged_in else "not logged in"


def operation_kind(operation: host_pb2.Operation) -> str:
    return _word(host_pb2.OperationKind, operation.kind)


def operation_state(operation: host_pb2.Operation) -> str:
    return _word(host_pb2.OperationState, operation.state)


def operation_share(operation: host_pb2.Operation) -> float:
    return percent(operation.done_bytes, operation.total_bytes)


def _word(enum: Any, value: int) -> str:
    """VOLUME_STATE_AVAILABLE is "available"; what a newer daemon says is its number."""
    if value not in enum.values():
        return str(value)
    unspecified: str = enum.Name(0)
    name: str = enum.Name(value)
    return name.removeprefix(unspecified.removesuffix("UNSPECIFIED")).replace("_", " ").lower()


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def yes(value: bool) -> str:
    return "yes" if value else "no"
