"""Tell what a storage host really holds: ``look.py GROUP STATE_FILE``, one line of JSON.

The kernel's targets, ACLs and backstores, the logical volumes, the records, and a
digest of the first block of each volume and of each active snapshot, read from the
device itself.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

TARGET = Path("/sys/kernel/config/target")
VOLUME_PREFIX, SNAPSHOT_PREFIX, RELEASED_PREFIX = "volume-", "snap-", "released-"
# Ours are those with the tag; the name alone is a finding.
OUR_PREFIXES = (VOLUME_PREFIX, SNAPSHOT_PREFIX, "source-", "deleted-")
OUR_TAG = "targetd.v1"
BLOCK = 512
COLUMNS = "lv_name,lv_size,lv_tags,pool_lv"


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip("\0\n ")
    except OSError:
        return ""


def folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]


def linked(path: Path) -> str:
    """The name of the object that a LUN or a mapped LUN leads to."""
    links = [entry for entry in path.iterdir() if entry.is_symlink()] if path.is_dir() else []
    return links[0].resolve().name if len(links) == 1 else ""


def acl(path: Path) -> dict[str, Any]:
    return {
        "username": read(path / "auth" / "userid"),
        "password": read(path / "auth" / "password"),
        "read_only": read(path / "lun_0" / "write_protect") == "1",
        "mapped": linked(path / "lun_0"),
    }


def target(path: Path) -> dict[str, Any]:
    group = path / "tpgt_1"
    return {
        "enabled": read(group / "enable") == "1",
        "authentication": read(group / "attrib" / "authentication") == "1",
        "open_to_all": read(group / "attrib" / "generate_node_acls") != "0",
        "portals": sorted(portal.name for portal in folders(group / "np")),
        "backstore": linked(group / "lun" / "lun_0"),
        "acls": {one.name: acl(one) for one in folders(group / "acls")},
    }


def backstore(path: Path) -> dict[str, Any]:
    return {
        "name": path.name,
        "enabled": read(path / "enable") == "1",
        "device": read(path / "udev_path"),
        "serial": read(path / "wwn" / "vpd_unit_serial").rpartition(": ")[2],
    }


def adapters() -> list[list[dict[str, Any]]]:
    """Block adapters, each with its backstores: one, as the daemon makes them."""
    found = folders(TARGET / "core")
    return [
        [backstore(one) for one in folders(adapter)]
        for adapter in found
        if adapter.name.startswith("iblock_")
    ]


def logical_volumes(group: str) -> list[dict[str, str]]:
    argv = ["lvm", "lvs", "--reportformat", "json", "--units", "b", "--nosuffix"]
    done = subprocess.run([*argv, "-o", COLUMNS, group], check=True, capture_output=True)
    rows: list[dict[str, str]] = json.loads(done.stdout)["report"][0]["lv"]
    return rows


def is_ours(row: dict[str, str]) -> bool:
    return row["lv_name"].startswith(OUR_PREFIXES) or OUR_TAG in row["lv_tags"].split(",")


def content(path: str) -> str:
    """Past the page cache; an error is told as text, since it is a finding."""
    try:
        device = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        return str(error)
    try:
        with mmap.mmap(-1, BLOCK) as block:
            os.preadv(device, [block], 0)
            return hashlib.sha256(block[:]).hexdigest()
    except OSError as error:
        return str(error)
    finally:
        os.close(device)


def records(path: str) -> dict[str, Any]:
    """From a copy: the daemon keeps the file and its log to itself."""
    with tempfile.TemporaryDirectory() as folder:
        for file in Path(path).parent.glob(f"{Path(path).name}*"):
            shutil.copy(file, folder)
        return copied_records(Path(folder) / Path(path).name)


def copied_records(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as database:

        def rows(query: str) -> list[Any]:
            return database.execute(query).fetchall()

        return {
            "exports": [row[0] for row in rows("SELECT volume_id FROM exports")],
            "connections": rows("SELECT volume_id, attachment_id, state FROM connections"),
            "creating": [row[0] for row in rows("SELECT lv_name FROM creating")],
        }


def main() -> None:
    group, state = sys.argv[1:]
    rows = logical_volumes(group)
    names = [row["lv_name"] for row in rows]
    seen = {
        "targets": {
            path.name: target(path)
            for path in folders(TARGET / "iscsi")
            if path.name.startswith("iqn.")
        },
        "adapters": adapters(),
        "logical_volumes": {row["lv_name"]: int(row["lv_size"]) for row in rows if is_ours(row)},
        "released": {
            row["lv_name"]: {"size_bytes": int(row["lv_size"]), "pool": row["pool_lv"] or "thick"}
            for row in rows
            if row["lv_name"].startswith(RELEASED_PREFIX) and not is_ours(row)
        },
        "contents": {
            name: content(f"/dev/{group}/{name}")
            for name in names
            if name.startswith((VOLUME_PREFIX, SNAPSHOT_PREFIX, RELEASED_PREFIX))
        },
        "records": records(state),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
