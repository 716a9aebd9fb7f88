"""The storage host: its addresses and figures, through psutil."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from targetd.config import Config
from targetd.errors import StartError


def portals(config: Config) -> tuple[str, ...]:
    """The portals of every target, as "address:port".

    Raises StartError when none is configured and the host has no address.
    """
    addresses = config.portal_addresses or tuple(_host_addresses())
    if not addresses:
        raise StartError("this host has no address to serve iSCSI on; set portal_addresses")
    return tuple(_portal(address, config.portal_port) for address in addresses)


def _host_addresses() -> list[str]:
    found = []
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if not (address.is_loopback or address.is_link_local):
                found.append(str(address))
    return sorted(found, key=lambda text: (":" in text, text))


def _portal(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
