"""The daemon as a service of systemd: readiness, signals, a new configuration while it runs."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from queue import SimpleQueue

from targetd import notify
from targetd.config import Config
from targetd.daemon import Daemon
from targetd.errors import StartError

log = logging.getLogger(__name__)


def run(daemon: Daemon, load: Callable[[], Config]) -> None:
    """Start, serve until SIGTERM or SIGINT, stop. SIGHUP takes over what ``load`` returns.

    Raises StartError, with the cure, when the daemon cannot start.
    """
    # Its put may be called by a signal in the middle of its get.
    signals: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: signals.put(received))
    daemon.start(notify.Progress())
    notify.ready(daemon.status())
    while signals.get() == signal.SIGHUP:
        notify.reloading()
        daemon.note = reload(daemon, load)
        notify.ready(daemon.status())
    log.info("stopping")
    notify.stopping()
    daemon.stop()


def reload(daemon: Daemon, load: Callable[[], Config]) -> str:
    """Take over the configuration as it is now; returns what was not taken over, and why."""
    try:
        fixed = ", ".join(daemon.configure(load()))
    except StartError as error:
        log.error("the old configuration is kept: %s", error)
        return f"the old configuration is kept: {error}"
    if fixed:
        log.warning("the configuration was taken over, but this needs a restart: %s", fixed)
        return f"needs a restart: {fixed}"
    log.info("the configuration was taken over")
    return ""
