"""Cinder's API, scheduler and volume manager in one process, for Cinder's own interpreter.

Not by Cinder's programs, which are one process each, but by what these call. Between the
three there is oslo.messaging's transport within a process.
"""

# Imports follow a call that has to be the first.
# ruff: noqa: E402
from __future__ import annotations

from cinder import monkey_patch

# Before anything else is imported, as Cinder's programs do.
monkey_patch.patch()

import sys
import threading
import time
from typing import Any

import os_brick
from cinder import coordination, objects, rpc, service, version
from cinder.common import config, constants
from cinder.db import migration
from oslo_config import cfg
from oslo_log import log
from oslo_messaging._drivers import base, impl_fake

BACKEND = "nothing"
POLL_SECONDS = 10.0


class Deliveries:
    """Tells listeners of the transport that a message came. By itself it looks each 50 ms,
    which is longer than Cinder takes; that would not be Cinder's speed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def add(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, seconds)


def make_transport_prompt() -> None:
    deliveries = Deliveries()
    deliver = impl_fake.FakeExchange.deliver_message

    def delivered(exchange: Any, *arguments: Any, **options: Any) -> None:
        deliver(exchange, *arguments, **options)
        deliveries.add()

    def poll(listener: Any, timeout: float | None = None) -> Any:
        end = time.monotonic() + (POLL_SECONDS if timeout is None else timeout)
        while not listener._stopped.is_set():
            seen = deliveries.count
            for target in listener._targets:
                exchange = listener._exchange_manager.get_exchange(target.exchange)
                context, message, reply, requeue = exchange.poll(target, listener._pool)
                if message is not None:
                    return impl_fake.FakeIncomingMessage(context, message, reply, requeue)
            left = end - time.monotonic()
            if left <= 0:
                break
            deliveries.wait(seen, left)
        return None

    impl_fake.FakeExchange.deliver_message = delivered
    impl_fake.FakeListener.poll = base.batch_poll_helper(poll)


def main() -> None:
    objects.register_all()
    cfg.CONF(sys.argv[1:], project="cinder", version=version.version_string())
    config.set_middleware_defaults()
    log.setup(cfg.CONF, "cinder")
    os_brick.setup(cfg.CONF)
    migration.db_sync()
    coordination.COORDINATOR.start()
    make_transport_prompt()
    rpc.init(cfg.CONF)
    host = cfg.CONF.host
    scheduler = service.Service.create(host=host, binary=constants.SCHEDULER_BINARY)
    scheduler.start()
    volume = service.Service.create(
        host=f"{host}@{BACKEND}",
        service_name=BACKEND,
        binary=constants.VOLUME_BINARY,
        coordination=True,
    )
    volume.start()
    api = service.WSGIService("osapi_volume")
    api.start()
    print("port", api.port, flush=True)
    # Until a signal ends the process.
    threading.Event().wait()


if __name__ == "__main__":
    main()
