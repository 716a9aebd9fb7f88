"""The site: the services over one database, as they are configured, and what belongs to what."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import select
from targetd_driver import TlsFiles

from attachd.actions import Actions
from attachd.attachments import Attachments
from attachd.claims import Claims
from attachd.claims import hold_seconds as claims_held
from attachd.config import Config
from attachd.connecting import Connecting
from attachd.counts import Counts
from attachd.database.engine import Database
from attachd.database.migrations import migrate
from attachd.database.records import Records
from attachd.database.schema import attachments
from attachd.hosts import Hosts, Reach
from attachd.placement import Marks
from attachd.reconcile import Reconciler
from attachd.rules import Leases
from attachd.sealing import Sealing
from attachd.settling import Settling
from attachd.snapshots import Snapshots
from attachd.tokens import Tokens
from attachd.volumes import Volumes


@dataclass(frozen=True)
class Services:
    """What does the work."""

    volumes: Volumes
    snapshots: Snapshots
    attachments: Attachments
    actions: Actions
    hosts: Hosts
    counts: Counts


class Site:
    """The services over one database. Close it when done.

    Raises StartError with the cure; RecordsUnavailable while the database does not answer.
    """

    def __init__(self, config: Config, instance: str = "") -> None:
        self.config = config
        self.database = Database(config.database_url)
        try:
            migrate(self.database)
            records = Records(self.database)
            name = f"{socket.gethostname()}:{os.getpid()}"
            hold_seconds = claims_held(config.host_timeout_seconds)
            self.claims = claims = Claims(
                records,
                name,
                hold_seconds,
                instance=instance,
                # One volume leaves half of the threads to the others.
                waiting_max=max(1, config.threads // 2),
            )
            self.hosts = Hosts(self.database, _reach(config), _marks(config))
            self.tokens = Tokens(self.database)
            # Where there are secrets already, another key would be worse than none.
            sealing = Sealing.with_key_file(config.secret_key, create=not self._has_secrets())
        # Whatever it was, it is raised again; also Ctrl-C.
        except BaseException:
            self.database.close()
            raise
        leases = Leases(config.reservation_lease_seconds)
        connecting = Connecting(sealing, leases)
        settling = Settling(records, claims, self.hosts, connecting)
        self.reconciler = Reconciler(
            records, claims, self.hosts, settling, config.reconcile_seconds
        )
        self.services = Services(
            volumes=Volumes(records, claims, self.hosts),
            snapshots=Snapshots(records, claims, self.hosts),
            attachments=Attachments(records, claims, self.hosts, connecting, leases),
            actions=Actions(claims, self.hosts, connecting, sealing, leases),
            hosts=self.hosts,
            counts=Counts(self.database),
        )

    def _has_secrets(self) -> bool:
        sealed = attachments.c.sealed_secrets.is_not(None) & attachments.c.delete_time.is_(None)
        with self.database.reading() as connection:
            found = connection.execute(select(attachments.c.id).where(sealed).limit(1))
            return found.first() is not None

    def check(self) -> None:
        """Raises RecordsUnavailable."""
        with self.database.reading() as connection:
            connection.exec_driver_sql("SELECT 1")

    def close(self) -> None:
        self.hosts.close()
        self.database.close()


def _reach(config: Config) -> Reach:
    files = config.host_tls
    tls = TlsFiles(files.certificate, files.key, files.ca) if files else None
    return Reach(tls, config.host_timeout_seconds)


def _marks(config: Config) -> Marks:
    return Marks(config.over_subscription_max, config.full_percent_max)


@contextmanager
def opened(config: Config) -> Iterator[Site]:
    """The services, for a command."""
    site = Site(config)
    try:
        yield site
    finally:
        site.close()
