"""What LVM remembers of our volumes: the names and tags of logical volumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from targetd.engines.interface import Inventory, RetiredVolume
from targetd.engines.lvm_command import Row
from targetd.model import PoolConfig, Provisioning, Snapshot, Source, SourceKind, Volume
from targetd.validation import UUID

COLUMNS = "vg_name,lv_name,lv_size,lv_tags,pool_lv,lv_time,lv_attr,origin,origin_size,data_percent"

# Marks a logical volume as ours; a volume of such a name without it is foreign.
OUR_TAG = "targetd.v1"
MULTI_ATTACH = "targetd.multi-attach"
# A snapshot's volume; the space that was asked for its changes.
OF = "targetd.of."
RESERVE = "targetd.reserve."
# A volume's source, the operation that fills it, the name it had before us.
FROM = {
    SourceKind.SNAPSHOT: "targetd.from-snapshot.",
    SourceKind.VOLUME: "targetd.from-volume.",
}
COPYING = "targetd.copying."
WAS = "targetd.was."
# Whose it is to be, where the name that it had is that of a volume too.
BECOMES = "targetd.becomes."
# When we say that it was made, in microseconds: LVM's own time is a little later.
AT = "targetd.at."
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

VOLUME = "volume-"
SNAPSHOT = "snap-"
SNAPSHOT_FOR_COPY = "source-"
RETIRED = "deleted-"

# In the fifth place of lv_attr: the space of a thick snapshot ran out.
INVALID_SNAPSHOT_STATES = "IS"


def volume_tags(volume: Volume) -> list[str]:
    tags = [OUR_TAG]
    if volume.multi_attach:
        tags.append(MULTI_ATTACH)
    if volume.source:
        tags.append(FROM[volume.source.kind] + volume.source.source_id)
    if volume.copy_id:
        tags.append(COPYING + volume.copy_id)
    if volume.adopted_name:
        tags.append(WAS + volume.adopted_name)
        if volume.adopted_name.startswith(VOLUME):
            tags.append(BECOMES + volume.volume_id)
    else:
        tags.append(_at(volume.create_time))
    return tags


def snapshot_tags(snapshot: Snapshot) -> list[str]:
    reserve = f"{RESERVE}{snapshot.reserve_bytes}"
    return [OUR_TAG, OF + snapshot.volume_id, reserve, _at(snapshot.create_time)]


def add_tags(tags: Iterable[str]) -> list[str]:
    return [argument for tag in tags for argument in ("--addtag", tag)]


def remove_tags(tags: Iterable[str]) -> list[str]:
    return [argument for tag in tags for argument in ("--deltag", tag)]


def our_tags(row: Mapping[str, str]) -> list[str]:
    return [tag for tag in row["lv_tags"].split(",") if tag.startswith("targetd.")]


def read_inventory(rows: Iterable[Row], pools: Sequence[PoolConfig]) -> Inventory:
    """Sort the rows of ``lvs`` (COLUMNS) into what is ours."""
    by_place = {(pool.volume_group, pool.thin_pool): pool for pool in pools}
    inventory = Inventory()
    for row in rows:
        pool = by_place.get((row["vg_name"], row["pool_lv"]))
        if pool is not None and OUR_TAG in our_tags(row):
            _sort(row, pool, inventory)
    return inventory


def _sort(row: Row, pool: PoolConfig, inventory: Inventory) -> None:
    name = row["lv_name"]
    volume_id = name.removeprefix(VOLUME) if name.startswith(VOLUME) else ""
    if UUID.fullmatch(volume_id) and _tagged(row, BECOMES) in ("", volume_id):
        inventory.volumes.append(_volume(row, pool))
    elif name.startswith(RETIRED):
        attached = bool(row["origin"]) and pool.provisioning is Provisioning.THICK
        inventory.retired.append(
            RetiredVolume(name.removeprefix(RETIRED), pool, int(row["lv_size"]), attached)
        )
    elif name.startswith((SNAPSHOT, SNAPSHOT_FOR_COPY)) and _tagged(row, OF):
        inventory.snapshots.append(_snapshot(row, pool))
    else:
        inventory.strays.append(f"{row['vg_name']}/{name}")


def _volume(row: Row, pool: PoolConfig) -> Volume:
    source = None
    for kind, prefix in FROM.items():
        if source_id := _tagged(row, prefix):
            source = Source(kind, source_id)
    return Volume(
        volume_id=row["lv_name"].removeprefix(VOLUME),
        pool=pool,
        size_bytes=int(row["lv_size"]),
        multi_attach=MULTI_ATTACH in our_tags(row),
        create_time=create_time(row),
        source=source,
        copy_id=_tagged(row, COPYING),
        adopted_name=_tagged(row, WAS),
    )


def _snapshot(row: Row, pool: PoolConfig) -> Snapshot:
    for_copy = row["lv_name"].startswith(SNAPSHOT_FOR_COPY)
    snapshot = Snapshot(
        snapshot_id=row["lv_name"].removeprefix(SNAPSHOT_FOR_COPY if for_copy else SNAPSHOT),
        volume_id=_tagged(row, OF),
        pool=pool,
        size_bytes=int(row["lv_size"]),
        create_time=create_time(row),
        reserve_bytes=int(_tagged(row, RESERVE) or 0),
        for_copy=for_copy,
    )
    if pool.provisioning is Provisioning.THIN:
        return snapshot
    return _with_space(snapshot, row)


def _with_space(snapshot: Snapshot, row: Row) -> Snapshot:
    """A thick snapshot, with what LVM reports of its space."""
    return replace(
        snapshot,
        # 0 where it has lost its origin: a removal that was interrupted.
        size_bytes=int(row["origin_size"] or 0),
        reserved_bytes=int(row["lv_size"]),
        used_percent=float(row["data_percent"] or 0),
        overflowed=row["lv_attr"][4] in INVALID_SNAPSHOT_STATES,
    )


def _at(time: datetime) -> str:
    return f"{AT}{(time - EPOCH) // MICROSECOND}"


def create_time(row: Row) -> datetime:
    if at := _tagged(row, AT):
        return EPOCH + int(at) * MICROSECOND
    return datetime.fromtimestamp(int(row["lv_time"]), UTC)


def _tagged(row: Row, prefix: str) -> str:
    """What follows the prefix in the row's tag of that kind, or an empty text."""
    return next((t.removeprefix(prefix) for t in our_tags(row) if t.startswith(prefix)), "")
