"""Which version of the API a request speaks, and the documents that say what is served.

The major version is 3; its microversions are counted by their second number.
"""

from __future__ import annotations

import re
from typing import Any

from attachd.errors import Invalid
from attachd.rest.faults import NotAcceptable

HEADER = "openstack-api-version"
SERVICE = "volume"
LATEST = 71
# Of the last microversion that is served.
UPDATED = "2024-08-01T00:00:00Z"
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")

# The first that has it.
SUMMARY = 12
GROUPS = 13
GROUP_SNAPSHOTS = 14
PROVIDER_ID = 21
ATTACHMENTS = 27
STRICT_FILTERS = 31
RESOURCE_FILTERS = 33
LIKE_FILTERS = 34
SUMMARY_METADATA = 36
SNAPSHOT_USER = 41
EXTEND_IN_USE = 42
COMPLETE = 44
COUNT = 45
SHARED_TARGETS = 48
STRICT_BODIES = 53
ATTACHMENT_MODE = 54
CLUSTER_NAME = 61
TYPE_ID = 63
CONSUMES_QUOTA = 65
SNAPSHOT_IN_USE = 66


def text(minor: int) -> str:
    return f"3.{minor}"


def negotiated(header: str | None) -> int:
    """The microversion that a request asks for, the oldest where it asks for none.

    Raises NotAcceptable for one that is not served, Invalid for what is none.
    """
    for part in (header or "").split(","):
        service, _, version = part.strip().partition(" ")
        if service.lower() == SERVICE:
            return _minor(version.strip())
    return 0


def _minor(version: str) -> int:
    if version == "latest":
        return LATEST
    found = VERSION.fullmatch(version)
    if found is None:
        raise Invalid(
            f"OpenStack-API-Version: {version!r} is no version; it is like: volume {text(LATEST)}"
        )
    major, minor = int(found[1]), int(found[2])
    if major != 3 or minor > LATEST:
        raise NotAcceptable(
            f"Version {version} is not supported by the API. Minimum is {text(0)} and maximum is "
            f"{text(LATEST)}."
        )
    return minor


def document(base_url: str) -> dict[str, Any]:
    """What is served; ``base_url`` is that of the service, without a version."""
    return {
        "versions": [
            {
                "id": "v3.0",
                "status": "CURRENT",
                "version": text(LATEST),
                "min_version": text(0),
                "updated": UPDATED,
                "links": [
                    {
                        "rel": "describedby",
                        "type": "text/html",
                        "href": "https://docs.openstack.org/api-ref/block-storage/v3/",
                    },
                    {"rel": "self", "href": f"{base_url}/v3/"},
                ],
                "media-types": [
                    {
                        "base": "application/json",
                        "type": "application/vnd.openstack.volume+json;version=3",
                    }
                ],
            }
        ]
    }
