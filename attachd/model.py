"""What attachd keeps records of, in the field's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

# Of an attaching host, as os-brick gathers it; what is not known here is kept as it came.
Connector = Mapping[str, Any]
# What the attaching host needs to log in. Holds a secret: never in a log, an error or a list.
ConnectionInfo = Mapping[str, Any]
# What stands where a secret is not shown again.
MASK = "***"


class VolumeStatus(StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    RESERVED = "reserved"
    ATTACHING = "attaching"
    IN_USE = "in-use"
    DETACHING = "detaching"
    EXTENDING = "extending"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"
    ERROR_EXTENDING = "error_extending"


class AttachStatus(StrEnum):
    RESERVED = "reserved"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    DETACHED = "detached"
    ERROR_ATTACHING = "error_attaching"
    ERROR_DETACHING = "error_detaching"


class Origin(StrEnum):
    """How an attachment came to be, which says what is left when its connection is undone."""

    # Reserved first, connected by an update: the reservation is left.
    RESERVATION = "reservation"
    # Made with its connector: nothing is left.
    CONNECTION = "connection"
    # By reserve of the volume's actions, whose callers do not know the attachment's id.
    ACTIONS = "actions"


class SnapshotStatus(StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    DELETING = "deleting"
    ERROR = "error"
    ERROR_DELETING = "error_deleting"


class AttachMode(StrEnum):
    READ_WRITE = "rw"
    READ_ONLY = "ro"


class HostState(StrEnum):
    UP = "up"
    # Serves what it has, gets nothing new.
    DRAINING = "draining"


@dataclass(frozen=True)
class Caller:
    """Whose request it is. An admin sees the records of all projects."""

    project_id: str
    user_id: str = ""
    is_admin: bool = False
    # Of the request; in logs and in the answer's headers.
    request_id: str = ""

    def may_see(self, project_id: str) -> bool:
        """The records of that project."""
        return self.is_admin or self.project_id == project_id


@dataclass(frozen=True)
class Attachment:
    """The one handle of an attachment."""

    id: str
    project_id: str
    volume_id: str
    instance_uuid: str | None
    # Of the connector, or as the caller of V1's attach names it.
    attached_host: str | None
    mountpoint: str | None
    attach_time: datetime | None
    detach_time: datetime | None
    attach_status: AttachStatus
    attach_mode: AttachMode
    # The attachment's specs.
    connector: Connector | None
    # Whole, with its secret, only in answers that granted it; otherwise masked.
    connection_info: ConnectionInfo | None
    create_time: datetime
    update_time: datetime
    origin: Origin = Origin.RESERVATION
    # When a reservation that nobody completes goes by itself, and also what terminate_connection
    # leaves for detach.
    lease_end_time: datetime | None = None
    # Why the status is an error.
    reason: str = ""


@dataclass(frozen=True)
class Volume:
    id: str
    project_id: str
    user_id: str
    name: str
    description: str
    size_gib: int
    status: VolumeStatus
    multiattach: bool
    # The storage host and its pool.
    host: str
    pool: str
    snapshot_id: str | None
    source_volume_id: str | None
    metadata: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    # Why the status is an error, or what a long step waits for.
    reason: str = ""
    attachments: tuple[Attachment, ...] = ()
    # Its holder may have died; then ``until`` passes.
    claim: VolumeClaim | None = None


@dataclass(frozen=True)
class SharedConnection:
    """An attachment of a volume, as its storage host sees it now."""

    attachment_id: str
    initiator: str
    host: str
    authorized: bool
    logged_in: bool


@dataclass(frozen=True)
class Deleted:
    """What a deletion leaves."""

    # The volume's other attachments, by age.
    remaining: tuple[Attachment, ...]
    # Those that the storage host still gives access to the volume.
    sharing: tuple[SharedConnection, ...]


@dataclass(frozen=True)
class Snapshot:
    id: str
    project_id: str
    user_id: str
    volume_id: str
    name: str
    description: str
    size_gib: int
    status: SnapshotStatus
    metadata: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    reason: str = ""


@dataclass(frozen=True)
class VolumeClaim:
    """Who works on a volume."""

    by: str
    purpose: str
    since: datetime
    until: datetime


@dataclass(frozen=True)
class NewVolume:
    """What a volume is asked to be. Without a size that of its source."""

    size_gib: int | None
    name: str = ""
    description: str = ""
    multiattach: bool = False
    snapshot_id: str | None = None
    source_volume_id: str | None = None
    # "host", or "host#pool"; otherwise where there is most room.
    place: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HostSpec:
    """How a storage host is reached; TCP takes the client's certificate of the configuration."""

    name: str
    # unix:/run/targetd/targetd.sock or host:port
    endpoint: str


@dataclass(frozen=True)
class StorageHost:
    name: str
    endpoint: str
    state: HostState
    volumes: int
    # Whether it answered last; None before it was asked.
    reachable: bool | None = None
    reason: str = ""
    # The host's own id, by which it is known under any name and address. Attaching hosts
    # that must not work on its targets in parallel lock on it.
    lock_domain_id: str = ""


@dataclass(frozen=True)
class Pool:
    host: str
    name: str
    thin: bool
    total_bytes: int
    free_bytes: int
    # The sum of the sizes promised to volumes.
    provisioned_bytes: int
    # Thin pools only: of data or of metadata, whichever is fuller.
    full_percent: float = 0.0


class SortKey(StrEnum):
    CREATED = "created_at"
    NAME = "name"
    SIZE = "size"
    STATUS = "status"
    ID = "id"


@dataclass(frozen=True)
class Page:
    """``marker`` is the id after which the page begins; None for the beginning."""

    limit: int = 1000
    marker: str | None = None
    sort_key: SortKey = SortKey.CREATED
    descending: bool = True
    offset: int = 0


@dataclass(frozen=True)
class VolumeFilter:
    all_projects: bool = False
    project_id: str | None = None
    name: str | None = None
    name_like: str | None = None
    status: str | None = None
    host: str | None = None
    multiattach: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AttachmentFilter:
    all_projects: bool = False
    project_id: str | None = None
    volume_id: str | None = None
    instance_uuid: str | None = None
    attach_status: str | None = None
    attached_host: str | None = None


@dataclass(frozen=True)
class SnapshotFilter:
    all_projects: bool = False
    project_id: str | None = None
    volume_id: str | None = None
    name: str | None = None
    status: str | None = None
