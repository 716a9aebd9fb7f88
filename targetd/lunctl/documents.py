"""The JSON form of the contract's messages: protobuf's own mapping, but for three things.

Names are those of the contract (snake_case), whole numbers of 64 bits are numbers
and not texts, and secrets are left out unless they were asked for.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

MASKED = "***"


def document(message: Message, show_secrets: bool = False) -> dict[str, Any]:
    """Every field but messages that are not set, also those with their default value."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.GetOptions().debug_redact and value and not show_secrets:
            value = MASKED
        elif field.is_repeated:
            value = [_value(field, one, show_secrets) for one in value]
        else:
            value = _value(field, value, show_secrets)
        found[field.name] = value
    return found


def _value(field: Any, value: Any, show_secrets: bool) -> Any:
    if isinstance(value, Timestamp | Duration):
        return value.ToJsonString()
    if isinstance(value, Message):
        return document(value, show_secrets)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
