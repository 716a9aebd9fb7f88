"""What the answer of a storage host means for what was asked of it."""

from __future__ import annotations

from targetd_driver import (
    DriverError,
    InvalidInput,
    NoSpace,
    NotFound,
    Refused,
    TargetdDriver,
    Unsupported,
)
from targetd_driver import volumes as driver_volumes

from attachd.model import Snapshot, Volume
from attachd.placement import GIBIBYTE

# Said of a volume or a snapshot that is not done yet.
GOES_ON = "attachd goes on trying"


def is_final(error: DriverError) -> bool:
    """The same again would be refused again, until somebody does something about it."""
    final = (InvalidInput, NoSpace, NotFound, Refused, Unsupported)
    return error.answered and isinstance(error, final)


def waiting(host: str, error: DriverError) -> str:
    """The reason of what is not done yet."""
    return f"storage host {host}: {error}; {GOES_ON}"


# Each of these may be asked again, whatever became of it before.


def make_volume(driver: TargetdDriver, volume: Volume) -> driver_volumes.Volume:
    """Raises DriverError."""
    return driver.volumes.create(
        volume.id,
        volume.size_gib * GIBIBYTE,
        volume.pool,
        multi_attach=volume.multiattach,
        source_snapshot_id=volume.snapshot_id or "",
        source_volume_id=volume.source_volume_id or "",
    )


def extend_volume(driver: TargetdDriver, volume: Volume) -> driver_volumes.Volume:
    """To the size of its record. Raises DriverError."""
    return driver.volumes.extend(volume.id, volume.size_gib * GIBIBYTE)


def delete_volume(driver: TargetdDriver, volume_id: str) -> None:
    """Raises DriverError. A wipe goes on in the background."""
    try:
        driver.volumes.delete(volume_id)
    except Refused as error:
        if error.reason != "EXPORTED":
            raise
        # Left by a detach whose last step had no answer.
        driver.remove_export(None, {"id": volume_id})
        driver.volumes.delete(volume_id)


def make_snapshot(driver: TargetdDriver, snapshot: Snapshot) -> None:
    """Raises DriverError."""
    driver.snapshots.create(snapshot.id, snapshot.volume_id)


def delete_snapshot(driver: TargetdDriver, snapshot_id: str) -> None:
    """Raises DriverError. A wipe goes on in the background."""
    driver.snapshots.delete(snapshot_id)
