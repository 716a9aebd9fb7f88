"""The bodies of requests, checked field by field; made once, when this is imported."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from attachd.model import AttachMode

# 1 EiB; more is a mistake, and no number of bytes that fits in 63 bits.
SIZE_GIB_MAX = 1 << 30

Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=255)]
Description = Annotated[str, StringConstraints(max_length=4096)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Value = Annotated[str, StringConstraints(max_length=255)]
Metadata = dict[Key, Value]
# Clients send a number, or its digits.
Size = Annotated[int, Field(ge=1, le=SIZE_GIB_MAX)]


def _canonical(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError("must be a UUID") from None


# In lower case, with hyphens, however it was given.
Id = Annotated[str, AfterValidator(_canonical)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Loose(BaseModel):
    """Unknown fields stay in ``model_extra``: older microversions ignored them."""

    model_config = ConfigDict(extra="allow")


class NewVolume(_Loose):
    size: Size | None = None
    name: Name | None = None
    display_name: Name | None = None
    description: Description | None = None
    display_description: Description | None = None
    snapshot_id: Id | None = None
    source_volid: Id | None = None
    volume_type: str | None = None
    availability_zone: str | None = None
    metadata: Metadata | None = None
    multiattach: bool | None = None


class SchedulerHints(_Loose):
    # "HOST" or "HOST#POOL".
    place: str | None = None


class CreateVolume(_Loose):
    volume: NewVolume
    hints: SchedulerHints | None = Field(None, alias="OS-SCH-HNT:scheduler_hints")


class Names(_Loose):
    name: Name | None = None
    display_name: Name | None = None
    description: Description | None = None
    display_description: Description | None = None
    metadata: Metadata | None = None


class UpdateVolume(_Body):
    volume: Names


class UpdateSnapshot(_Body):
    snapshot: Names


class MetadataBody(_Body):
    metadata: Metadata


class MetaBody(_Body):
    meta: Metadata


class NewSnapshot(_Loose):
    volume_id: Id
    name: Name | None = None
    display_name: Name | None = None
    description: Description | None = None
    display_description: Description | None = None
    force: bool | None = None
    metadata: Metadata | None = None


class CreateSnapshot(_Body):
    snapshot: NewSnapshot


class NewAttachment(_Body):
    volume_uuid: Id
    instance_uuid: Id | None = None
    connector: dict[str, Any] | None = None
    mode: AttachMode | None = None


class CreateAttachment(_Body):
    attachment: NewAttachment


class Connected(_Body):
    connector: dict[str, Any] = Field(min_length=1)


class UpdateAttachment(_Body):
    attachment: Connected


class InitializeConnection(_Loose):
    connector: dict[str, Any] = Field(min_length=1)


class TerminateConnection(_Loose):
    connector: dict[str, Any] | None = None
    force: bool = False


class Attach(_Loose):
    mountpoint: Key
    mode: AttachMode = AttachMode.READ_WRITE
    instance_uuid: Id | None = None
    host_name: Key | None = None


class Detach(_Loose):
    attachment_id: Id | None = None


class ForceDetach(Detach):
    connector: dict[str, Any] | None = None


class Extend(_Loose):
    new_size: Size


class ResetStatus(_Loose):
    status: str | None = None
    attach_status: str | None = None
    migration_status: str | None = None
