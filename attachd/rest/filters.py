"""``resource_filters``: what lists can be filtered by."""

from __future__ import annotations

from attachd.rest import attachments, snapshots, volumes
from attachd.rest.request import Answer, Request

FILTERS = {
    "volume": volumes.FILTERS,
    "snapshot": snapshots.FILTERS,
    "attachment": attachments.FILTERS,
}


def list_(request: Request) -> Answer:
    wanted = request.params.get("resource")
    shown = [
        {"resource": resource, "filters": sorted(found)}
        for resource, found in FILTERS.items()
        if wanted in (None, resource)
    ]
    return Answer(200, {"resource_filters": shown})
