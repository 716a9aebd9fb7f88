"""So many volumes with two attachments each, the same in the records and on the storage host."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert

from attachd.database import rows
from attachd.database.engine import Database
from attachd.database.migrations import migrate
from attachd.database.schema import attachments, volumes
from attachd.model import Attachment, AttachMode, AttachStatus, Volume, VolumeStatus
from attachd.sealing import Sealing
from lab.bench.attachd.api import PROJECT

HOST, POOL = "storage", "thin"
ATTACHING_HOSTS = ("a", "b")
# The oldest, which nobody has attached.
AVAILABLE = 10
ROWS_AT_ONCE = 1000
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def volume_id(number: int) -> str:
    """The same in every program."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"volume {number}"))


def volume_name(number: int) -> str:
    return f"volume-{number}"


def attachment_id(number: int, host: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"attachment {number} {host}"))


def instance_uuid(number: int, host: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"instance {number} {host}"))


def connector(number: int, host: str) -> dict[str, Any]:
    """As os-brick gathers it."""
    return {
        "initiator": f"iqn.2026-01.org.example.bench:{host}{number}",
        "host": f"{host}{number}",
        "ip": "192.0.2.10",
        "platform": "x86_64",
        "os_type": "linux",
        "multipath": False,
        "do_local_attach": False,
        "system uuid": instance_uuid(number, host),
    }


def attached(count: int) -> Iterator[tuple[int, str]]:
    """The numbers of the volumes that are attached, and the hosts that have them."""
    return ((number, host) for number in range(AVAILABLE, count) for host in ATTACHING_HOSTS)


def fill(database: Database, sealing: Sealing, count: int) -> None:
    """Put them all into records that are empty."""
    migrate(database)
    all_volumes = [rows.volume_values(_volume(number)) for number in range(count)]
    all_attachments = [_attachment_values(sealing, *one) for one in attached(count)]
    with database.writing() as connection:
        for table, values in ((volumes, all_volumes), (attachments, all_attachments)):
            for start in range(0, len(values), ROWS_AT_ONCE):
                connection.execute(insert(table), values[start : start + ROWS_AT_ONCE])
        if not database.is_sqlite:
            # It does so by itself, some time after so many changes.
            connection.exec_driver_sql("ANALYZE")


def _volume(number: int) -> Volume:
    time = FIRST + timedelta(seconds=number)
    return Volume(
        id=volume_id(number),
        project_id=PROJECT,
        user_id="bench",
        name=volume_name(number),
        description="",
        size_gib=1,
        status=VolumeStatus.AVAILABLE if number < AVAILABLE else VolumeStatus.IN_USE,
        multiattach=True,
        host=HOST,
        pool=POOL,
        snapshot_id=None,
        source_volume_id=None,
        metadata={"number": str(number)},
        create_time=time,
        update_time=time,
    )


def _attachment_values(sealing: Sealing, number: int, host: str) -> dict[str, Any]:
    time = FIRST + timedelta(seconds=number, milliseconds=ATTACHING_HOSTS.index(host))
    id_ = attachment_id(number, host)
    sealed = sealing.seal(id_, _connection_info(number, id_))
    attachment = Attachment(
        id=id_,
        project_id=PROJECT,
        volume_id=volume_id(number),
        instance_uuid=instance_uuid(number, host),
        attached_host=f"{host}{number}",
        mountpoint=None,
        attach_time=time,
        detach_time=None,
        attach_status=AttachStatus.ATTACHED,
        attach_mode=AttachMode.READ_WRITE,
        connector=connector(number, host),
        connection_info=sealed.masked,
        create_time=time,
        update_time=time,
    )
    return {**rows.attachment_values(attachment), "sealed_secrets": sealed.secrets}


def _connection_info(number: int, attachment: str) -> dict[str, Any]:
    """As a storage host with two portals answers it."""
    iqn = f"iqn.2026-11.org.targetd:{volume_id(number)}"
    portals = ["192.0.2.1:3260", "198.51.100.1:3260"]
    return {
        "driver_volume_type": "iscsi",
        "target_discovered": False,
        "target_portal": portals[0],
        "target_iqn": iqn,
        "target_lun": 0,
        "target_portals": portals,
        "target_iqns": [iqn] * len(portals),
        "target_luns": [0] * len(portals),
        "volume_id": volume_id(number),
        "attachment_id": attachment,
        "auth_method": "CHAP",
        "auth_username": f"user-{number}",
        "auth_password": f"secret-{number}",
        "access_mode": "rw",
        "encrypted": False,
        "qos_specs": None,
        "discard": True,
        "enforce_multipath": False,
        "cacheable": False,
    }
