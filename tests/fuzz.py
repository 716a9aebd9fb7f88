"""Random and hostile requests, made from the descriptors of the contract.

A new call or field of the contract is covered without a change here; a new id or
name deserves a line in ``Palette.good``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2

SERVICES = (
    volume_pb2.DESCRIPTOR.services_by_name["VolumeService"],
    export_pb2.DESCRIPTOR.services_by_name["ExportService"],
    host_pb2.DESCRIPTOR.services_by_name["HostService"],
)
OPERATION_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9a-f]{12}")
OPERATION_IDS = 8
# A shell that saw one of these would leave the file; a log that took a line from
# outside would have one that begins with the word.
CANARY = "/run/targetd-fuzz-canary"
FORGED = "FORGED-LOG-LINE"
HOSTILE_TEXTS = (
    "",
    " ",
    ".",
    "..",
    "../../etc",
    "../../../../../../etc/passwd",
    "/dev/sda",
    "/sys/kernel/config/target",
    "volume-../../x",
    "thin/../thick",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"; touch {CANARY}",
    f"| touch {CANARY} #",
    f"' ; touch {CANARY} ; '",
    f'" && touch {CANARY} && "',
    f"x\ntouch {CANARY}\n",
    f"\n{FORGED}\n",
    f"\r\n{FORGED}",
    "--force",
    "--yes",
    "-rf",
    "--config=activation/x=1",
    "@targetd.v1",
    "storage/thin",
    "thin_tdata",
    "pvmove0",
    "snapshot",
    "%s%s%n",
    "{0.__class__}",
    "'; DROP TABLE connections; --",
    "a\0b",
    "\0",
    "\x1b[2J\x1b[31m",
    "\x7f",
    "\u202etxt.exe",
    "\u200b",
    "\ufeffx",
    "\ud7ff",
    "ä" * 36,
    "\u0661\u0662",
    "\u212a",
    "\U0001f600" * 20,
    "İ",
    "null",
    "None",
    "true",
    "NaN",
    "1e999",
    "-1",
    "after:",
    "after:\U0010ffff",
    "x" * 64,
    "x" * 65,
    "x" * 256,
    "x" * 4096,
    "é" * 30_000,
    # Beyond what the server takes in.
    "x" * 100_000,
)
HOSTILE_INTEGERS = (0, 1, -1, 7, 1000, 1001, (1 << 31) - 1, -(1 << 31))
HOSTILE_LARGE_INTEGERS = (1 << 60, (1 << 60) + 1, (1 << 63) - 1, -(1 << 63), 1 << 53, 1 << 42)
UNKNOWN_METHODS = (
    "/targetd.v1.VolumeService/Nothing",
    "/targetd.v1.VolumeService/createvolume",
    "/targetd.v1.VolumeService/CreateVolume/",
    "/targetd.v1.VolumeService/../HostService/GetHost",
    "/targetd.v2.VolumeService/CreateVolume",
    "/targetd.v1.VolumeService/" + "x" * 4000,
    "/$(reboot)/x",
    "/",
    "x",
)


@dataclass(frozen=True)
class Call:
    """One request as it goes over the wire."""

    method: str
    data: bytes
    # For calls whose answer is a stream.
    streams: bool = False
    # Whether the method exists, and whether its request can be read there.
    known: bool = True
    readable: bool = True

    @property
    def name(self) -> str:
        return self.method.rpartition("/")[2]


@dataclass
class Palette:
    """What there is, so that requests reach beyond the first check."""

    volume_ids: Sequence[str]
    attachment_ids: Sequence[str]
    initiators: Sequence[str]
    pools: Sequence[str]
    # The newest that answers named.
    operation_ids: list[str] = field(init=False)
    good: Mapping[str, Sequence[Any]] = field(init=False)

    def __post_init__(self) -> None:
        uuids = (*self.volume_ids, "00000000-0000-4000-8000-000000000000")
        self.operation_ids = [f"{self.volume_ids[0]}-0123456789ab"] * OPERATION_IDS
        self.good = {
            "volume_id": uuids,
            "snapshot_id": uuids,
            # Mostly none, or hardly any volume would come to be.
            "source_snapshot_id": ("",) * 30 + uuids,
            "source_volume_id": ("",) * 30 + uuids,
            "attachment_id": self.attachment_ids,
            "pool": self.pools,
            "initiator": (*self.initiators, *(one.upper() for one in self.initiators)),
            "host": ("a", "b", ""),
            "ip": ("", "192.0.2.7", "2001:db8::7"),
            "platform": ("", "x86_64"),
            "os_type": ("", "linux"),
            "mountpoint": ("", "/mnt"),
            "page_token": ("", "after:", f"after:{self.volume_ids[0]}"),
            "page_size": (0, 1, 1000),
            "size_bytes": (1, 4 << 20, 4 << 20, 8 << 20, 1 << 50),
            "reserve_bytes": (0, 4 << 20),
            "operation_id": self.operation_ids,
            "lv_name": ("", "mine", "mine", *(f"volume-{one}" for one in self.volume_ids)),
        }


class Fuzzer:
    """An endless stream of calls; the same seed gives the same calls, but for the ids
    of operations, which only answers tell."""

    def __init__(self, palette: Palette, seed: int) -> None:
        self.palette = palette
        self._random = random.Random(seed)
        methods = [method for service in SERVICES for method in service.methods]
        # A stream goes on for a while, and hears of all that the others do.
        self._methods = [one for one in methods for _ in range(1 if one.server_streaming else 8)]

    def calls(self) -> Iterator[Call]:
        while True:
            yield self._call()

    def hear(self, answer: bytes) -> None:
        """Learn the ids of operations, always so many."""
        for found in OPERATION_ID.findall(answer):
            known = self.palette.operation_ids
            known.append(found.decode())
            del known[0]

    def _call(self) -> Call:
        chance = self._random
        if chance.random() < 0.01:
            data = chance.randbytes(chance.randrange(40))
            return Call(chance.choice(UNKNOWN_METHODS), data, known=False)
        method = chance.choice(self._methods)
        data = self._data(method)
        return Call(
            f"/{method.containing_service.full_name}/{method.name}",
            data,
            streams=method.server_streaming,
            readable=_readable(method, data),
        )

    def _data(self, method: MethodDescriptor) -> bytes:
        kind = self._random.random()
        if kind < 0.04:
            return self._random.randbytes(self._random.randrange(200))
        # None, one in ten, or half of the fields are hostile.
        hostility = 0.0 if kind < 0.25 else 0.1 if kind < 0.8 else 0.5
        data: bytes = self._message(method.input_type, hostility).SerializeToString()
        return self._damaged(data) if kind > 0.95 else data

    def _damaged(self, data: bytes) -> bytes:
        chance = self._random
        place = chance.randrange(len(data) + 1)
        piece = chance.randbytes(chance.randrange(1, 8))
        return chance.choice(
            (data[:place], data[:place] + piece + data[place:], data + piece, data + data)
        )

    def _message(self, descriptor: Descriptor, hostility: float) -> Message:
        message = message_factory.GetMessageClass(descriptor)()
        for one in descriptor.fields:
            # Of a oneof the last one that is set remains; each must have its turn.
            share = 0.5 if one.containing_oneof else 0.95
            if self._random.random() < share:
                self._set(message, one, hostility)
        return message

    def _set(self, message: Message, one: FieldDescriptor, hostility: float) -> None:
        if one.is_repeated:
            values = [self._value(one, hostility) for _ in range(self._random.randrange(3))]
            getattr(message, one.name).extend(values)
        elif one.message_type is not None:
            getattr(message, one.name).CopyFrom(self._message(one.message_type, hostility))
        else:
            setattr(message, one.name, self._value(one, hostility))

    def _value(self, one: FieldDescriptor, hostility: float) -> Any:
        chance, hostile = self._random, self._random.random() < hostility
        if one.message_type is not None:
            return self._message(one.message_type, hostility)
        if one.type == FieldDescriptor.TYPE_BOOL:
            return chance.random() < 0.15
        if one.enum_type is not None:
            known = [value.number for value in one.enum_type.values]
            return chance.choice(HOSTILE_INTEGERS) if hostile else chance.choice(known)
        if one.type == FieldDescriptor.TYPE_STRING:
            return self._text(one.name, hostile)
        if one.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64):
            wide = HOSTILE_LARGE_INTEGERS if one.type == FieldDescriptor.TYPE_INT64 else ()
            good = self.palette.good.get(one.name, (0, 1))
            return chance.choice((*HOSTILE_INTEGERS, *wide)) if hostile else chance.choice(good)
        raise NotImplementedError(f"{one.full_name}: a type that no request had so far")

    def _text(self, name: str, hostile: bool) -> str:
        chance = self._random
        good: str = chance.choice(self.palette.good.get(name, ("x",)))
        if not hostile:
            return good
        bad = chance.choice(HOSTILE_TEXTS)
        # What begins well passes careless checks.
        return chance.choice((bad, bad, good + bad, bad + good))


def _readable(method: MethodDescriptor, data: bytes) -> bool:
    try:
        message_factory.GetMessageClass(method.input_type).FromString(data)
    except DecodeError:
        return False
    return True
