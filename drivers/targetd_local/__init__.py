"""Volumes of attachd as disks of the host that this runs on, with open-iscsi and multipathd."""

from targetd_local.attachd import Attachd, Attachment
from targetd_local.disks import LocalDisk, LocalPath
from targetd_local.errors import (
    AttachdError,
    DiskMissing,
    Interrupted,
    InUse,
    Invalid,
    LocalError,
    LoginFailed,
    NotPossible,
    NotRoot,
    ProgramFailed,
    Refused,
    Unreachable,
    WrongDisk,
)
from targetd_local.local import Attached, Detached, LocalVolumes

__all__ = [
    "Attachd",
    "AttachdError",
    "Attached",
    "Attachment",
    "Detached",
    "DiskMissing",
    "InUse",
    "Interrupted",
    "Invalid",
    "LocalDisk",
    "LocalError",
    "LocalPath",
    "LocalVolumes",
    "LoginFailed",
    "NotPossible",
    "NotRoot",
    "ProgramFailed",
    "Refused",
    "Unreachable",
    "WrongDisk",
]
