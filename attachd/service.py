"""attachd as a service: the site, served over REST, from its start to its end."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import ExitStack
from queue import SimpleQueue

from attachd import proofs
from attachd.config import Config, IdentityKind
from attachd.instance import Instance
from attachd.rest.application import Application
from attachd.rest.identity import Bearer, NoAuth
from attachd.rest.server import Server
from attachd.site import Site
from targetd import logs, notify, secretbox
from targetd.errors import StartError
from targetd.watchdog import Watchdog

log = logging.getLogger(__name__)

IDENTIFIER = "attachd"
# What they tell where all is well is of use to nobody.
TALKATIVE = ("alembic", "uvicorn.error")
# Beside the time that a storage host has to answer: for requests that have begun to end.
STOP_GRACE_SECONDS = 10


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
        with_tokens = config.identity is IdentityKind.TOKENS
        self.application = Application(
            self.site.services,
            Bearer(self.site.tokens) if with_tokens else NoAuth(),
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
