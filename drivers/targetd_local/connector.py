"""What an attachment layer is told of this host: the connector, with os-brick's keys."""

from __future__ import annotations

import platform
import socket
import sys
from typing import Any

from targetd_local.iscsi import OpenIscsi

# Documentation addresses (RFC 5737, 3849): only to ask by which address this host would leave.
ANYWHERE = ("192.0.2.1", "2001:db8::1")
PORT = 9


def host_name() -> str:
    return socket.gethostname()


def gather(
    iscsi: OpenIscsi, *, multipath: bool = False, mountpoint: str | None = None, towards: str = ""
) -> dict[str, Any]:
    """``towards`` is the host that the address is to reach, such as attachd's.

    Raises NotPossible when this host has no initiator name.
    """
    connector: dict[str, Any] = {
        "platform": platform.machine(),
        "os_type": sys.platform,
        "host": host_name(),
        "multipath": multipath,
        # Without multipathd it would be one path that says it is several.
        "enforce_multipath": multipath,
        "do_local_attach": True,
        "initiator": iscsi.initiator_name(),
    }
    if address := own_address(towards):
        connector["ip"] = address
    if mountpoint:
        connector["mountpoint"] = mountpoint
    return connector


def own_address(towards: str = "") -> str | None:
    """This host's address on the way to another; None without any network."""
    for place in (towards, *ANYWHERE):
        if not place:
            continue
        try:
            family, kind, _, _, address = socket.getaddrinfo(place, PORT, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                # Of UDP: nothing is sent.
                probe.connect(address)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None
