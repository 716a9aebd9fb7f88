"""attachd as it is configured: what there is, how it belongs together, and its life."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from sqlalchemy import select
from targetd_driver import TlsFiles

from attachd import proofs
from attachd.actions import Actions
from attachd.attachments import Attachments
from attachd.claims import Claims
from attachd.claims import hold_seconds as claims_held
from attachd.config import Config, IdentityKind
from attachd.connecting import Connecting
from attachd.counts import Counts
from attachd.database.engine import Database
from attachd.database.migrations import migrate
from attachd.database.records import Records
from attachd.database.schema import attachments
from attachd.hosts import Hosts, Reach
from attachd.instance import Instance
from attachd.placement import Marks
from attachd.reconcile import Reconciler
from attachd.rest.application import Application
from attachd.rest.identity import Bearer, Identity, NoAuth
from attachd.rest.request import Services
from attachd.rest.server import Server
from attachd.rules import Leases
from attachd.sealing import Sealing
from attachd.settling import Settling
from attachd.snapshots import Snapshots
from attachd.tokens import Tokens
from attachd.volumes import Volumes
from targetd import logs, notify, secretbox
from targetd.errors import StartError
from targetd.watchdog import Watchdog

log = logging.getLogger(__name__)

IDENTIFIER = "attachd"
# What they tell where all is well is of use to nobody.
TALKATIVE = ("alembic", "uvicorn.error")
# Beside the time that a storage host has to answer: for requests that have begun to end.
STOP_GRACE_SECONDS = 10


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

    def identity(self) -> Identity:
        return Bearer(self.tokens) if self.config.identity is IdentityKind.TOKENS else NoAuth()

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


class Service:
    """A site that is served. Raises StartError."""

    def __init__(self, config: Config) -> None:
        with ExitStack() as undo:
            self._instance = Instance(config.state_directory)
            undo.callback(self._instance.close)
            self.site = Site(config, self._instance.id)
            undo.callback(self.site.close)
            if left := self.site.claims.release_left():
                log.warning("%d volumes were being worked on when attachd was killed", left)
            self.server = self._served(config)
            undo.pop_all()
        self._watchdog = Watchdog(proofs.of(self.server), self.status)

    def _served(self, config: Config) -> Server:
        self.application = Application(
            self.site.services,
            self.site.identity(),
            config.threads,
            self.site.check,
            config.public_url,
        )
        return Server(config, self.application, config.host_timeout_seconds + STOP_GRACE_SECONDS)

    def start(self) -> None:
        """Raises StartError."""
        self.server.start()
        self.site.reconciler.start()
        self._watchdog.start(notify.watchdog_seconds())

    def stop(self) -> None:
        """Requests that have begun end before this does."""
        self.server.stop()
        self._watchdog.stop()
        self.site.reconciler.stop()
        self.site.close()
        self._instance.close()

    def reload(self, config: Config) -> None:
        """Take over what can be. Raises StartError, and what was stays."""
        self.server.reload()
        logs.set_level(config.log_level)

    def status(self) -> str:
        return f"serving {', '.join(self.server.addresses())}"


def run(load: Callable[[], Config]) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError, with the cure."""
    config = load()
    logs.setup(config.log_level, IDENTIFIER)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    secretbox.keep_out_of_core_dumps()
    # Its put may be called by a signal in the middle of its get.
    signals: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: signals.put(received))
    service = Service(config)
    service.start()
    notify.ready(service.status())
    while signals.get() == signal.SIGHUP:
        notify.reloading()
        notify.ready(_reloaded(service, load) or service.status())
    log.info("stopping")
    notify.notify("STOPPING=1", "STATUS=stopping; attachments stay as they are")
    service.stop()


def _reloaded(service: Service, load: Callable[[], Config]) -> str:
    """Returns why not, if it could not be."""
    try:
        service.reload(load())
    except StartError as error:
        log.error("the old configuration is kept: %s", error)
        return f"the old configuration is kept: {error}"
    log.info("log_level and the files of [tls] were taken over")
    return ""
