"""What the daemon knows: plain values, shared by the logic and the engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Provisioning(StrEnum):
    THICK = "thick"
    THIN = "thin"


class AccessMode(StrEnum):
    READ_WRITE = "rw"
    READ_ONLY = "ro"


class ConnectionState(StrEnum):
    GRANTING = "granting"
    GRANTED = "granted"
    REVOKING = "revoking"


class OperationKind(StrEnum):
    WIPE = "wipe"
    COPY = "copy"


class OperationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WipePolicy(StrEnum):
    """What happens to the data of a deleted volume before its space is used again."""

    ZERO = "zero"
    DISCARD = "discard"
    NONE = "none"


class SourceKind(StrEnum):
    SNAPSHOT = "snapshot"
    VOLUME = "volume"


@dataclass(frozen=True)
class PoolConfig:
    """A volume group, or a thin pool in one, in which volumes are made."""

    name: str
    volume_group: str
    thin_pool: str = ""
    # Not a part of what the pool is: it can change while the daemon runs.
    wipe: WipePolicy = field(default=WipePolicy.ZERO, compare=False)

    @property
    def provisioning(self) -> Provisioning:
        return Provisioning.THIN if self.thin_pool else Provisioning.THICK


@dataclass(frozen=True)
class PoolReport:
    config: PoolConfig
    total_bytes: int
    free_bytes: int
    provisioned_bytes: int
    extent_bytes: int
    vg_metadata_total_bytes: int
    vg_metadata_free_bytes: int
    data_percent: float = 0.0
    metadata_percent: float = 0.0


@dataclass(frozen=True)
class Source:
    """What a volume was made from."""

    kind: SourceKind
    source_id: str


@dataclass(frozen=True)
class Volume:
    volume_id: str
    pool: PoolConfig
    size_bytes: int
    multi_attach: bool
    create_time: datetime
    source: Source | None = None
    # The operation that still fills it from its source.
    copy_id: str = ""
    # The name that its logical volume had before it was adopted.
    adopted_name: str = ""

    @property
    def lv_name(self) -> str:
        return volume_name(self.volume_id)

    @property
    def device_path(self) -> str:
        return f"/dev/{self.pool.volume_group}/{self.lv_name}"

    @property
    def wwid(self) -> str:
        return wwid(self.volume_id)


@dataclass(frozen=True)
class Snapshot:
    """A volume as it was at one moment."""

    snapshot_id: str
    volume_id: str
    pool: PoolConfig
    size_bytes: int
    create_time: datetime
    # Thick only: as asked for (0: enough for any change), and as LVM has it.
    reserve_bytes: int = 0
    reserved_bytes: int = 0
    used_percent: float = 0.0
    # Thick only: the space ran out, and LVM has given the content up.
    overflowed: bool = False
    # Made by the daemon, to fill the volume ``snapshot_id`` from; goes after that.
    for_copy: bool = False

    @property
    def lv_name(self) -> str:
        return (copy_source_name if self.for_copy else snapshot_name)(self.snapshot_id)

    @property
    def device_path(self) -> str:
        return f"/dev/{self.pool.volume_group}/{self.lv_name}"


def is_of(item: Volume | Snapshot, create_time: datetime | None) -> bool:
    """Whether the creation of that time has made it; None stands for any time."""
    return create_time is None or item.create_time == create_time


def volume_name(volume_id: str) -> str:
    """The name of the logical volume and of the LIO backstore."""
    return f"volume-{volume_id}"


def snapshot_name(snapshot_id: str) -> str:
    # LVM keeps names that begin with "snapshot" for itself.
    return f"snap-{snapshot_id}"


def copy_source_name(volume_id: str) -> str:
    """The name of the snapshot that a new volume is filled from."""
    return f"source-{volume_id}"


def wwid(volume_id: str) -> str:
    """The SCSI identity that Linux initiators derive from the unit serial.

    Type 3 (NAA), then NAA 6 with LIO's company id 001405, then the first 25
    hexadecimal digits of the serial (spc_gen_naa_6h_vendor_specific in Linux).
    """
    return "36001405" + volume_id.replace("-", "")[:25]


@dataclass(frozen=True)
class Credentials:
    """A CHAP user and secret, and for mutual CHAP those that the target proves itself with."""

    username: str
    password: str
    mutual_username: str = ""
    mutual_password: str = ""

    @property
    def mutual(self) -> bool:
        return bool(self.mutual_username)

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password='***', mutual={self.mutual})"


@dataclass(frozen=True)
class Export:
    volume_id: str
    create_time: datetime
    # Only with chap = "export": one secret for all of the export's connections.
    credentials: Credentials | None = None


@dataclass(frozen=True)
class Connection:
    volume_id: str
    attachment_id: str
    initiator: str
    host: str
    access_mode: AccessMode
    state: ConnectionState
    credentials: Credentials
    create_time: datetime


@dataclass(frozen=True)
class Acl:
    """One initiator's access to one target, as it must be in the kernel."""

    initiator: str
    credentials: Credentials
    read_only: bool


@dataclass(frozen=True)
class Target:
    """One volume's target, as it must be in the kernel."""

    volume_id: str
    iqn: str
    device_path: str
    portals: tuple[str, ...]
    thin: bool


@dataclass(frozen=True)
class Session:
    """The newest session of an initiator, as its ACL shows it."""

    initiator: str
    session_id: str
    state: str
    peer_addresses: tuple[str, ...]


@dataclass(frozen=True)
class AclStatistics:
    commands: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True)
class Operation:
    """Work that goes on after its call has been answered."""

    operation_id: str
    kind: OperationKind
    volume_id: str
    state: OperationState
    done_bytes: int
    total_bytes: int
    start_time: datetime
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.state in (OperationState.DONE, OperationState.CANCELLED)
