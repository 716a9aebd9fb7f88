"""The configuration: a TOML file, each key checked, unknown ones refused."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from targetd import config_file
from targetd.config_file import Table
from targetd.model import PoolConfig, WipePolicy
from targetd.roles import Role
from targetd.validation import NAME, address_and_port, is_address

DEFAULT_PATH = Path("/etc/targetd/targetd.toml")
DEFAULT_PREFIX = "iqn.2026-11.org.targetd"
ISCSI_PORT = 3260
IQN_PREFIX = re.compile(r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])(\.[a-z0-9-]+){2,}")
# With ":" and a UUID behind it, the target's name must fit in 223 bytes.
IQN_PREFIX_LENGTH_MAX = 180
# Less than the threads of the server, so that no client can have them all.
CALLS_PER_CLIENT_MAX = 480
# What the address of a unix socket has room for.
SOCKET_BYTES_MAX = 107
LVM_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}")


@dataclass(frozen=True)
class TlsConfig:
    certificate: Path
    key: Path
    client_ca: Path


@dataclass(frozen=True)
class Config:
    pools: tuple[PoolConfig, ...]
    state_directory: Path = Path("/var/lib/targetd")
    socket: Path = Path("/run/targetd/targetd.sock")
    # "address:port" on which gRPC is also served, with mutual TLS.
    listen: str = ""
    # On an address of loopback only; every process of this host is then an admin.
    listen_without_tls: bool = False
    tls: TlsConfig | None = None
    # By a name in the client's certificate; goes before the role that it says itself.
    roles: Mapping[str, Role] = field(default_factory=dict)
    # How many calls of one client may be under way.
    calls_per_client: int = 256
    iqn_prefix: str = DEFAULT_PREFIX
    # Empty: every address of the host but loopback and link-local ones.
    portal_addresses: tuple[str, ...] = field(default=())
    portal_port: int = ISCSI_PORT
    # True: one CHAP secret per export, for peers that hand out CreateExport's answer.
    chap_per_export: bool = False
    # For each wipe and each copy; 0 is as fast as the disks go.
    throttle_bytes_per_second: int = 0
    # How often all exports are compared with the kernel, in slices; 0 is never.
    reconcile_seconds: int = 300
    log_level: str = "info"
    # "address:port" on which metrics are served over HTTP, to anybody; empty: not at all.
    metrics_listen: str = ""

    @property
    def metrics(self) -> tuple[str, int] | None:
        """The address and the port of ``metrics_listen``."""
        return address_and_port(self.metrics_listen) if self.metrics_listen else None


# What a daemon that runs can take over; of the pools only their policies.
CHANGEABLE = frozenset(
    {
        "calls_per_client",
        "log_level",
        "reconcile_seconds",
        "roles",
        "throttle_bytes_per_second",
        "tls",
    }
)
# Fields whose keys have other names.
KEYS = {"pools": "pool", "chap_per_export": "chap"}


def merge(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """What a running daemon can have of another configuration, and the keys that need a restart."""
    fixed = [
        one.name
        for one in fields(Config)
        if one.name not in CHANGEABLE and getattr(running, one.name) != getattr(wanted, one.name)
    ]
    # Certificates come and go with the address that they are for.
    if (running.tls is None) != (wanted.tls is None):
        fixed.append("tls")
    kept = {name: getattr(running, name) for name in fixed}
    policies = {pool: pool.wipe for pool in wanted.pools}
    kept["pools"] = tuple(
        replace(pool, wipe=policies.get(pool, pool.wipe)) for pool in running.pools
    )
    return replace(wanted, **kept), sorted(KEYS.get(name, name) for name in fixed)


def load(path: Path) -> Config:
    """Raises StartError, naming line and key, when anything in the file is wrong."""
    table = config_file.read(path)
    pools = table.tables("pool")
    config = Config(
        pools=tuple(_pool(one) for one in pools),
        state_directory=table.path("state_directory", Config.state_directory),
        socket=table.path("socket", Config.socket),
        listen=table.text("listen", ""),
        listen_without_tls=table.boolean("listen_without_tls", False),
        tls=_tls(table),
        roles=_roles(table),
        calls_per_client=table.integer("calls_per_client", Config.calls_per_client),
        iqn_prefix=table.text("iqn_prefix", DEFAULT_PREFIX),
        portal_addresses=tuple(table.texts("portal_addresses")),
        portal_port=table.integer("portal_port", ISCSI_PORT),
        chap_per_export=table.choice("chap", ("connection", "export")) == "export",
        throttle_bytes_per_second=table.integer("throttle_bytes_per_second", 0),
        reconcile_seconds=table.integer("reconcile_seconds", Config.reconcile_seconds),
        log_level=table.choice("log_level", ("info", "debug", "warning", "error")),
        metrics_listen=table.text("metrics_listen", ""),
    )
    table.end()
    _check_pools(config.pools, table, pools)
    _check(config, table)
    return config


def _pool(table: Table) -> PoolConfig:
    thin_pool = table.text("thin_pool", "")
    # A thin pool zeroes each block before it gives it out; writing zeros to a
    # thin volume would only fill the pool.
    wipes = ("none", "discard") if thin_pool else ("zero", "discard", "none")
    pool = PoolConfig(
        name=table.text("name"),
        volume_group=table.text("volume_group"),
        thin_pool=thin_pool,
        wipe=WipePolicy(table.choice("wipe", wipes)),
    )
    if not NAME.fullmatch(pool.name):
        raise table.error("name", "must be of the characters A-Z a-z 0-9 . _ -")
    for key, value in (("volume_group", pool.volume_group), ("thin_pool", pool.thin_pool)):
        if value and not LVM_NAME.fullmatch(value):
            raise table.error(key, "is not a name that LVM can have")
    table.end()
    return pool


def _tls(table: Table) -> TlsConfig | None:
    tls = table.table("tls")
    if tls is None:
        return None
    config = TlsConfig(tls.path("certificate"), tls.path("key"), tls.path("client_ca"))
    tls.end()
    return config


def _roles(table: Table) -> dict[str, Role]:
    roles = table.table("roles")
    if roles is None:
        return {}
    return {name: Role(roles.choice(name, list(Role))) for name in roles.names()}


def _check_listen(config: Config, table: Table) -> None:
    if config.listen_without_tls and config.tls:
        raise table.error("listen_without_tls", "does not go with [tls]: remove one of them")
    if not config.listen or config.tls:
        return
    if not config.listen_without_tls:
        raise table.error("listen", "needs [tls]: gRPC over TCP is served with mutual TLS only")
    if not _is_loopback(config.listen):
        raise table.error(
            "listen", "without TLS must be an address of loopback, like 127.0.0.1:7788"
        )


def _is_loopback(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return is_address(host) and ipaddress.ip_address(host).is_loopback and port.isdecimal()


def _check_pools(pools: Sequence[PoolConfig], table: Table, tables: Sequence[Table]) -> None:
    if not pools:
        raise table.error("pool", "at least one [[pool]] with name and volume_group is needed")
    for index, pool in enumerate(pools):
        for other in pools[:index]:
            if pool.name == other.name:
                raise tables[index].error("name", f"two pools have the name {pool.name}")
            if (pool.volume_group, pool.thin_pool) == (other.volume_group, other.thin_pool):
                raise tables[index].error("volume_group", f"is that of pool {other.name} already")


def _check(config: Config, table: Table) -> None:
    _check_listen(config, table)
    if not 0 < config.calls_per_client <= CALLS_PER_CLIENT_MAX:
        raise table.error("calls_per_client", f"must be between 1 and {CALLS_PER_CLIENT_MAX}")
    address, _, port = config.listen.rpartition(":")
    # Port 0 is any.
    if config.listen and not (address and port.isdecimal() and int(port) < 1 << 16):
        raise table.error("listen", 'must be "address:port", like "0.0.0.0:7788"')
    if len(os.fsencode(config.socket)) > SOCKET_BYTES_MAX:
        raise table.error("socket", f"must not be longer than {SOCKET_BYTES_MAX} bytes")
    if not IQN_PREFIX.fullmatch(config.iqn_prefix) or (
        len(config.iqn_prefix) > IQN_PREFIX_LENGTH_MAX
    ):
        raise table.error("iqn_prefix", f"must be like {DEFAULT_PREFIX}, in lower case")
    for portal in config.portal_addresses:
        if not is_address(portal):
            raise table.error("portal_addresses", f"{portal!r} is not an IPv4 or IPv6 address")
        if ipaddress.ip_address(portal).is_unspecified:
            raise table.error(
                "portal_addresses",
                f"{portal!r} is no address that an initiator can reach; name each one",
            )
    if not 0 < config.portal_port < 1 << 16:
        raise table.error("portal_port", "must be between 1 and 65535")
    if config.metrics_listen and config.metrics is None:
        raise table.error(
            "metrics_listen", 'must be like "127.0.0.1:9719" or "[::1]:9719", an address and a port'
        )
    for key in ("throttle_bytes_per_second", "reconcile_seconds"):
        if getattr(config, key) < 0:
            raise table.error(key, "must not be negative")
