"""What a valid configuration asks of the host that is not so: found without root, or changes."""

from __future__ import annotations

import ipaddress

from targetd.config import Config, TlsConfig
from targetd.errors import StartError
from targetd.host import host_addresses, portals
from targetd.server import tls


def warnings(config: Config) -> list[str]:
    """What would keep the daemon from starting or from being reached, one line each."""
    found = _portal_warnings(config)
    if config.tls is not None:
        found += _tls_warnings(config.tls)
        if not config.listen:
            found.append("[tls] is given, but not listen: gRPC is not served over TCP")
    for directory in (config.state_directory, config.socket.parent):
        if directory.exists() and not directory.is_dir():
            found.append(f"{directory} is not a directory")
    return found


def _portal_warnings(config: Config) -> list[str]:
    try:
        portals(config)
    except StartError as error:
        return [str(error)]
    here = set(host_addresses(all_of_them=True))
    return [
        f"portal_addresses: this host has no address {address}"
        for address in config.portal_addresses
        if str(ipaddress.ip_address(address)) not in here
    ]


def _tls_warnings(files: TlsConfig) -> list[str]:
    try:
        tls.load(files)
    except StartError as error:
        return [str(error)]
    return []
