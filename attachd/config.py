"""The configuration: a TOML file, each key checked, unknown ones refused."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from targetd import config_file
from targetd.config_file import Table

DEFAULT_PATH = Path("/etc/attachd/attachd.toml")
# What the address of a unix socket has room for.
SOCKET_BYTES_MAX = 107
THREADS_MAX = 1000
DATABASE_URL = re.compile(r"(sqlite|postgresql(\+psycopg)?)://.+")
PUBLIC_URL = re.compile(r"https?://[^/?#\s]+(/[^?#\s]*)?")
LOG_LEVELS = ("info", "debug", "warning", "error")


class IdentityKind(StrEnum):
    TOKENS = "tokens"
    NOAUTH = "noauth"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of the REST service."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class HostTls:
    """What storage hosts over TCP are shown, and the authority of theirs."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class Config:
    state_directory: Path = Path("/var/lib/attachd")
    # Of SQLAlchemy; empty: SQLite in the state directory.
    database: str = ""
    # Encrypts the secrets of connections; None: in the state directory.
    key_file: Path | None = None
    socket: Path | None = Path("/run/attachd/attachd.sock")
    # "address:port"; empty: only the socket.
    listen: str = "127.0.0.1:8776"
    listen_without_tls: bool = False
    tls: TlsFiles | None = None
    identity: IdentityKind = IdentityKind.TOKENS
    noauth_anywhere: bool = False
    # What clients reach the service by, where that is not what they sent, as behind a proxy.
    public_url: str = ""
    # Of requests that change something, and as many more for those that only read.
    threads: int = 32
    host_tls: HostTls | None = None
    host_timeout_seconds: int = 30
    # 0: reservations stay until they are removed.
    reservation_lease_seconds: int = 3600
    reconcile_seconds: int = 60
    # Of a thin pool: what it may promise in times of its size, and how full it may be.
    over_subscription_max: int = 20
    full_percent_max: int = 90
    log_level: str = "info"

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.state_directory}/attachd.sqlite"

    @property
    def secret_key(self) -> Path:
        return self.key_file or self.state_directory / "key"

    @property
    def address(self) -> tuple[str, int] | None:
        """The address and the port of ``listen``."""
        if not self.listen:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


def load(path: Path) -> Config:
    """Raises StartError, naming line and key, when anything in the file is wrong."""
    table = config_file.read(path)
    config = Config(
        state_directory=table.path("state_directory", Config.state_directory),
        database=table.text("database", ""),
        key_file=_optional_path(table, "key_file", None),
        socket=_optional_path(table, "socket", Config.socket),
        listen=table.text("listen", Config.listen),
        listen_without_tls=table.boolean("listen_without_tls", False),
        tls=_tls(table),
        identity=IdentityKind(table.choice("identity", list(IdentityKind))),
        noauth_anywhere=table.boolean("noauth_anywhere", False),
        public_url=table.text("public_url", "").rstrip("/"),
        threads=table.integer("threads", Config.threads),
        host_tls=_host_tls(table),
        host_timeout_seconds=table.integer("host_timeout_seconds", Config.host_timeout_seconds),
        reservation_lease_seconds=table.integer(
            "reservation_lease_seconds", Config.reservation_lease_seconds
        ),
        reconcile_seconds=table.integer("reconcile_seconds", Config.reconcile_seconds),
        over_subscription_max=table.integer("over_subscription_max", Config.over_subscription_max),
        full_percent_max=table.integer("full_percent_max", Config.full_percent_max),
        log_level=table.choice("log_level", LOG_LEVELS),
    )
    table.end()
    _check_places(config, table)
    _check_listen(config, table)
    _check_numbers(config, table)
    return config


def _optional_path(table: Table, key: str, default: Path | None) -> Path | None:
    """An empty text is none."""
    text = table.text(key, str(default or ""))
    if text and not Path(text).is_absolute():
        raise table.error(key, "must be an absolute path")
    return Path(text) if text else None


def _tls(table: Table) -> TlsFiles | None:
    tls = table.table("tls")
    if tls is None:
        return None
    files = TlsFiles(tls.path("certificate"), tls.path("key"))
    tls.end()
    return files


def _host_tls(table: Table) -> HostTls | None:
    tls = table.table("host_tls")
    if tls is None:
        return None
    files = HostTls(tls.path("certificate"), tls.path("key"), tls.path("ca"))
    tls.end()
    return files


def _check_places(config: Config, table: Table) -> None:
    if config.database and not DATABASE_URL.fullmatch(config.database):
        raise table.error(
            "database", 'must be like "postgresql+psycopg://USER@HOST/NAME", or left out for SQLite'
        )
    if config.socket and len(os.fsencode(config.socket)) > SOCKET_BYTES_MAX:
        raise table.error("socket", f"must not be longer than {SOCKET_BYTES_MAX} bytes")
    if config.public_url and not PUBLIC_URL.fullmatch(config.public_url):
        raise table.error("public_url", 'must be like "https://storage.example.org:8776"')


def _check_listen(config: Config, table: Table) -> None:
    if not config.listen:
        if config.socket is None:
            raise table.error("listen", "and socket are both empty: nobody could reach the service")
        return
    if not _is_address_and_port(config.listen):
        raise table.error("listen", 'must be like "0.0.0.0:8776" or "[::1]:8776"')
    if _is_loopback(config):
        return
    if config.tls is None and not config.listen_without_tls:
        raise table.error(
            "listen",
            "needs [tls] on a network, since tokens and CHAP secrets pass: give certificate and "
            "key, or listen_without_tls = true where a proxy or a network of its own protects them",
        )
    if config.identity is IdentityKind.NOAUTH and not config.noauth_anywhere:
        raise table.error(
            "identity",
            "noauth on a network makes an administrator of whoever reaches it: listen on an "
            "address of loopback, use tokens, or say noauth_anywhere = true",
        )


def _is_address_and_port(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return False
    # An IPv6 address is told from its port by brackets. Port 0 is any.
    return (version == 6) == (bare != host) and port.isdecimal() and int(port) < 1 << 16


def _is_loopback(config: Config) -> bool:
    assert config.address is not None, "checked"
    return ipaddress.ip_address(config.address[0]).is_loopback


def _check_numbers(config: Config, table: Table) -> None:
    if not 0 < config.threads <= THREADS_MAX:
        raise table.error("threads", f"must be between 1 and {THREADS_MAX}")
    for key in ("host_timeout_seconds", "reconcile_seconds", "over_subscription_max"):
        if getattr(config, key) < 1:
            raise table.error(key, "must be 1 or more")
    if not 0 < config.full_percent_max <= 100:
        raise table.error("full_percent_max", "must be between 1 and 100")
    if config.reservation_lease_seconds < 0:
        raise table.error("reservation_lease_seconds", "must not be negative")
