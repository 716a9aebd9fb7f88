"""What clients ask about the site: limits, quotas, storage hosts and their pools, extensions."""

from __future__ import annotations

from typing import Any

from attachd.model import HostState, Pool, SnapshotFilter, StorageHost, VolumeFilter
from attachd.rest import listing
from attachd.rest.request import Answer, Request
from attachd.rest.types import TYPES

GIBIBYTE = 1 << 30
UNLIMITED = -1
LIMITS = {
    "maxTotalVolumes": UNLIMITED,
    "maxTotalSnapshots": UNLIMITED,
    "maxTotalVolumeGigabytes": UNLIMITED,
    "maxTotalBackups": 0,
    "maxTotalBackupGigabytes": 0,
}
_EACH = ("volumes", "snapshots", "gigabytes")
QUOTAS = {
    **dict.fromkeys(_EACH, UNLIMITED),
    **{f"{one}_{kind.name}": UNLIMITED for one in _EACH for kind in TYPES},
    "per_volume_gigabytes": UNLIMITED,
    "backups": 0,
    "backup_gigabytes": 0,
    "groups": 0,
}
# Alias, name and description of what is served beyond volumes and snapshots.
EXTENSIONS = (
    ("os-volume-actions", "VolumeActions", "Attach, detach and extend volumes."),
    ("os-admin-actions", "AdminActions", "Reset and force what administrators may."),
    ("os-types-manage", "TypesManage", "List volume types."),
    ("os-types-extra-specs", "TypesExtraSpecs", "Extra specifications of volume types."),
    ("os-services", "Services", "Storage hosts and how they are."),
    ("os-availability-zone", "AvailabilityZones", "Storage hosts as places for volumes."),
    ("scheduler-stats", "Scheduler_stats", "Pools and their figures."),
    ("os-quota-sets", "Quotas", "There are none: all is unlimited."),
    ("os-used-limits", "UsedLimits", "Limits of a project."),
    ("os-vol-tenant-attr", "VolumeTenantAttribute", "The project of a volume."),
    ("os-vol-host-attr", "VolumeHostAttribute", "The storage host of a volume."),
    ("os-extended-snapshot-attributes", "ExtendedSnapshotAttributes", "More of a snapshot."),
)
UPDATED = "2026-11-01T00:00:00+00:00"
BINARY = "targetd"


def limits(request: Request) -> Answer:
    used = _used(request, request.caller.project_id)
    absolute = {
        **LIMITS,
        "totalVolumesUsed": used["volumes"],
        "totalSnapshotsUsed": used["snapshots"],
        "totalGigabytesUsed": used["gigabytes"],
        "totalBackupsUsed": 0,
        "totalBackupGigabytesUsed": 0,
    }
    return Answer(200, {"limits": {"rate": [], "absolute": absolute}})


def _used(request: Request, project_id: str) -> dict[str, int]:
    """By the names of quotas. Raises NotAllowed for another project's."""
    if project_id != request.caller.project_id:
        request.require_admin("What another project uses")
    counts, everybody = request.services.counts, request.caller.is_admin
    found = {"volumes": 0, "gigabytes": 0}
    for kind in TYPES:
        where = VolumeFilter(everybody, project_id, multiattach=kind.multiattach)
        count = counts.volumes(request.caller, where)
        found[f"volumes_{kind.name}"] = count.number
        found[f"gigabytes_{kind.name}"] = count.gib
        found["volumes"] += count.number
        found["gigabytes"] += count.gib
    snapshots = counts.snapshots(request.caller, SnapshotFilter(everybody, project_id))
    found["snapshots"] = snapshots.number
    # They count as what they would be as volumes.
    found["gigabytes"] += snapshots.gib
    return found


def quotas(request: Request) -> Answer:
    used = _used(request, request.id)
    shown: dict[str, Any] = dict(QUOTAS)
    if listing.boolean(request.params.get("usage", "false"), "usage"):
        shown = {
            name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0, "allocated": 0}
            for name, limit in QUOTAS.items()
        }
    return Answer(200, {"quota_set": {"id": request.id, **shown}})


def quota_defaults(request: Request) -> Answer:
    return Answer(200, {"quota_set": {"id": request.id, **QUOTAS}})


def services(request: Request) -> Answer:
    request.require_admin("The list of services")
    wanted_host, wanted_binary = request.params.get("host"), request.params.get("binary")
    shown = [
        _service(host)
        for host in request.services.hosts.list()
        if wanted_host in (None, host.name) and wanted_binary in (None, BINARY)
    ]
    return Answer(200, {"services": shown})


def _service(host: StorageHost) -> dict[str, Any]:
    draining = host.state is HostState.DRAINING
    return {
        "binary": BINARY,
        "host": host.name,
        "zone": host.name,
        "status": "disabled" if draining else "enabled",
        "disabled_reason": "draining" if draining else None,
        # Before it was asked it is taken to be.
        "state": "down" if host.reachable is False else "up",
        "updated_at": None,
        "frozen": False,
        "backend_state": "down" if host.reachable is False else "up",
    }


def zones(request: Request) -> Answer:
    """A zone is a storage host: volumes are made there by its name."""
    shown = [
        {
            "zoneName": host.name,
            "zoneState": {"available": host.state is HostState.UP and host.reachable is not False},
        }
        for host in request.services.hosts.list()
    ]
    return Answer(200, {"availabilityZoneInfo": shown})


def pools(request: Request) -> Answer:
    request.require_admin("The list of pools")
    detail = listing.boolean(request.params.get("detail", "false"), "detail")
    return Answer(200, {"pools": [_pool(pool, detail) for pool in request.services.hosts.pools()]})


def _pool(pool: Pool, detail: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": f"{pool.host}#{pool.name}"}
    if detail:
        shown["capabilities"] = {
            "pool_name": pool.name,
            "volume_backend_name": pool.host,
            "vendor_name": "targetd",
            "storage_protocol": "iSCSI",
            "total_capacity_gb": _gib(pool.total_bytes),
            "free_capacity_gb": _gib(pool.free_bytes),
            "allocated_capacity_gb": _gib(pool.provisioned_bytes),
            "provisioned_capacity_gb": _gib(pool.provisioned_bytes),
            "thin_provisioning_support": pool.thin,
            "thick_provisioning_support": not pool.thin,
            "multiattach": True,
            "QoS_support": False,
        }
    return shown


def _gib(count: int) -> float:
    return round(count / GIBIBYTE, 2)


def extensions(_request: Request) -> Answer:
    return Answer(200, {"extensions": [_extension(*one) for one in EXTENSIONS]})


def _extension(alias: str, name: str, description: str) -> dict[str, Any]:
    return {
        "alias": alias,
        "name": name,
        "description": description,
        "updated": UPDATED,
        "links": [],
    }
