"""What every call passes: who calls, whether they may, whether they have too much under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from targetd.config import Config
from targetd.errors import FieldViolation, InvalidArgument, TargetdError, Unavailable
from targetd.server import access, audit
from targetd.server.clients import Clients, shown_peer
from targetd.server.limits import STREAMS_PER_CLIENT, AtOnce

# What answers before the daemon serves: health and reflection are not ours.
OUR_METHODS = "/targetd."
# Stands for a request that is no protobuf message.
UNREADABLE = object()


class Gate:
    """Until ``serve`` every call of ours is told to come back later."""

    def __init__(self, config: Config) -> None:
        self._serving = threading.Event()
        self._clients = Clients(config)
        self._calls = AtOnce(config.calls_per_client, "calls")
        self._streams = AtOnce(STREAMS_PER_CLIENT, "streams")

    def serve(self) -> None:
        self._serving.set()

    def configure(self, config: Config) -> None:
        self._clients.configure(config)
        self._calls.most = config.calls_per_client

    @contextmanager
    def passing(
        self, method: str, streams: bool, request: Any, context: grpc.ServicerContext
    ) -> Iterator[None]:
        """The call is made within. Raises what it raises, or why it may not be made."""
        rule = access.rule_of(method)
        client = self._clients.of(context)
        began, outcome = time.perf_counter(), "OK"
        recorded = rule.mutates
        try:
            if client.role not in rule.roles:
                recorded = True
                raise access.refusal(method, client.identity, client.role, client.cure)
            limit = self._streams if streams else self._calls
            limit.enter(client.identity)
            try:
                self._refuse(method, request)
                yield
            finally:
                limit.leave(client.identity)
        except TargetdError as error:
            outcome = f"{error.code.name} {error.reason}"
            raise
        # It is only noted here; the interceptor is the edge that answers it.
        except Exception:
            outcome = "INTERNAL"
            raise
        finally:
            if recorded:
                seconds = time.perf_counter() - began
                audit.record(client, shown_peer(context), method, request, outcome, seconds)

    def _refuse(self, method: str, request: Any) -> None:
        if request is UNREADABLE:
            raise InvalidArgument([FieldViolation("request", "is no message of this call")])
        if not self._serving.is_set() and method.startswith(OUR_METHODS):
            raise Unavailable(
                "the daemon is starting and brings its exports into order; try again soon",
                reason="STARTING",
            )
