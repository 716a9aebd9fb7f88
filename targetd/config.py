"""The configuration: a TOML file, each key checked, unknown ones refused."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targetd.errors import StartError
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


class _Table:
    """One table of the file; remembers which keys were asked for."""

    def __init__(self, path: Path, name: str, values: Mapping[str, Any]) -> None:
        self._path, self._name = path, name
        self._values = dict(values)

    def error(self, key: str, text: str) -> StartError:
        place = f"{self._name}.{key}" if self._name else key
        return StartError(f"{self._path}: {place}: {text}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.pop(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise self.error(key, "must be a text, and is needed")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of the choices, the first of which is the default."""
        value = self.text(key, choices[0])
        if value not in choices:
            raise self.error(key, f"must be one of: {', '.join(sorted(choices))}")
        return value

    def path(self, key: str, default: Path | None = None) -> Path:
        path = Path(self.text(key, str(default) if default else None))
        if not path.is_absolute():
            raise self.error(key, "must be an absolute path")
        return path

    def integer(self, key: str, default: int) -> int:
        value = self._values.pop(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "must be a whole number")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self._values.pop(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def names(self) -> list[str]:
        """The keys that nobody has asked for yet, where any name may be a key."""
        return list(self._values)

    def texts(self, key: str) -> list[str]:
        value = self._values.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(key, 'must be a list of texts, like ["192.0.2.1"]')
        return value

    def table(self, key: str) -> _Table | None:
        value = self._values.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, f"must be a table: [{key}]")
        return _Table(self._path, key, value)

    def tables(self, key: str) -> list[_Table]:
        value = self._values.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.error(key, f"must be a list of tables: [[{key}]]")
        return [_Table(self._path, f"{key}[{index}]", one) for index, one in enumerate(value)]

    def end(self) -> None:
        for key in self._values:
            raise self.error(key, "is not a known key; see the commented example configuration")


def load(path: Path) -> Config:
    """Raises StartError, naming the key, when anything in the file is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"the configuration {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"{path}: {error}") from error
    table = _Table(path, "", values)
    config = Config(
        pools=tuple(_pool(one) for one in table.tables("pool")),
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
    _check(config, table)
    return config


def _pool(table: _Table) -> PoolConfig:
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


def _tls(table: _Table) -> TlsConfig | None:
    tls = table.table("tls")
    if tls is None:
        return None
    config = TlsConfig(tls.path("certificate"), tls.path("key"), tls.path("client_ca"))
    tls.end()
    return config


def _roles(table: _Table) -> dict[str, Role]:
    roles = table.table("roles")
    if roles is None:
        return {}
    return {name: Role(roles.choice(name, list(Role))) for name in roles.names()}


def _check_listen(config: Config, table: _Table) -> None:
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


def _check(config: Config, table: _Table) -> None:
    if not config.pools:
        raise table.error("pool", "at least one [[pool]] with name and volume_group is needed")
    for key in ("name", "place"):
        seen = [
            pool.name if key == "name" else f"{pool.volume_group}/{pool.thin_pool}"
            for pool in config.pools
        ]
        if len(set(seen)) < len(seen):
            raise table.error("pool", f"two pools have the same {key}")
    _check_listen(config, table)
    if not 0 < config.calls_per_client <= CALLS_PER_CLIENT_MAX:
        raise table.error("calls_per_client", f"must be between 1 and {CALLS_PER_CLIENT_MAX}")
    if not IQN_PREFIX.fullmatch(config.iqn_prefix) or (
        len(config.iqn_prefix) > IQN_PREFIX_LENGTH_MAX
    ):
        raise table.error("iqn_prefix", f"must be like {DEFAULT_PREFIX}, in lower case")
    for address in config.portal_addresses:
        if not is_address(address):
            raise table.error("portal_addresses", f"{address!r} is not an IPv4 or IPv6 address")
        if ipaddress.ip_address(address).is_unspecified:
            raise table.error(
                "portal_addresses",
                f"{address!r} is no address that an initiator can reach; name each one",
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
