"""Volume types: clients ask for one, and for multi-attach by one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from attachd.errors import NotFound
from attachd.rest.request import Answer, Request

# The same ids wherever attachd runs.
NAMESPACE = uuid.UUID("3f1a9f0e-52a8-4c0b-8d37-5a0c3a1c7a41")


@dataclass(frozen=True)
class VolumeType:
    name: str
    description: str
    multiattach: bool = False
    extra_specs: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, self.name))


DEFAULT = VolumeType("default", "For one host at a time.")
MULTIATTACH = VolumeType(
    "multiattach",
    "For several hosts at a time; what is on it must be made for that.",
    multiattach=True,
    extra_specs={"multiattach": "<is> True"},
)
TYPES = (DEFAULT, MULTIATTACH)
BY_NAME = {key: one for one in TYPES for key in (one.name, one.id)}


def type_of(multiattach: bool) -> VolumeType:
    return MULTIATTACH if multiattach else DEFAULT


def find(name_or_id: str) -> VolumeType:
    """Raises NotFound."""
    try:
        return BY_NAME[name_or_id]
    except KeyError:
        known = ", ".join(one.name for one in TYPES)
        raise NotFound("Volume type", f"{name_or_id} (there are: {known})") from None


def _view(one: VolumeType) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "description": one.description,
        "is_public": True,
        "os-volume-type-access:is_public": True,
        "extra_specs": dict(one.extra_specs),
        "qos_specs_id": None,
    }


def list_(request: Request) -> Answer:
    return Answer(200, {"volume_types": [_view(one) for one in TYPES]})


def show(request: Request) -> Answer:
    return Answer(200, {"volume_type": _view(find(request.id))})


def extra_specs(request: Request) -> Answer:
    return Answer(200, {"extra_specs": dict(find(request.id).extra_specs)})


def extra_spec(request: Request) -> Answer:
    id_, key = request.ids
    specs = find(id_).extra_specs
    if key not in specs:
        raise NotFound(f"Extra spec of volume type {id_}", key)
    return Answer(200, {key: specs[key]})
