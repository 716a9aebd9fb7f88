"""The storage host: its addresses and figures, through psutil."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import psutil

from targetd.config import Config
from targetd.errors import NotReady
from targetd.model import Export


def portals(config: Config) -> tuple[str, ...]:
    """The portals of every target, as "address:port".

    Raises NotReady when none is configured and the host has no address.
    """
    addresses = config.portal_addresses or tuple(host_addresses())
    if not addresses:
        raise NotReady("this host has no address to serve iSCSI on; set portal_addresses")
    return tuple(_portal(address, config.portal_port) for address in addresses)


def host_addresses(all_of_them: bool = False) -> list[str]:
    """Without loopback and link-local ones, unless all are asked for."""
    found = []
    for addresses in psutil.net_if_addrs().values():
        for entry in addresses:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if all_of_them or not (address.is_loopback or address.is_link_local):
                found.append(str(address))
    return sorted(found, key=lambda text: (":" in text, text))


def missing_listeners(portals: Sequence[str], exports: Sequence[Export]) -> list[str]:
    """The portals on which nothing listens, though something is exported."""
    if not exports:
        return []
    listening = {
        _portal(connection.laddr.ip, connection.laddr.port)
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr
    }
    return [portal for portal in portals if portal not in listening]


def _portal(address: str, port: int) -> str:
    address = str(ipaddress.ip_address(address))
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
