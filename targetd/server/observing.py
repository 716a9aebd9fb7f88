"""Around every call: it is counted and timed, the log learns what it is about.

When it fails for a reason that lies in the host, the log gets what was done to
its volume.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, cast

import grpc

from targetd import flight, metrics
from targetd.context import about
from targetd.server.gate import OUR_METHODS

# What a request can be about.
ID_FIELDS = ("volume_id", "snapshot_id", "attachment_id", "operation_id")
ID_LENGTH_MAX = 64
HOST_FAILURES = ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN")
Handler = Callable[[Any, grpc.ServicerContext], Any]
Handled: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ObservingInterceptor(grpc.ServerInterceptor):
    """The outermost, so that it sees the answer as the caller gets it."""

    def __init__(self) -> None:
        # By method, and by method and code: finding them again costs less than asking for them.
        self._seconds: dict[str, Callable[[float], None]] = {}
        self._counts: dict[tuple[str, str], Callable[[], None]] = {}
        self._fields: dict[type[Any], tuple[str, ...]] = {}
        self._wrapped: dict[str, tuple[Handled, Handled]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handled | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handled | None:
        handler = continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or not path.startswith(OUR_METHODS):
            return handler
        inner, wrapped = self._wrapped.get(path, (None, handler))
        if inner is not handler:
            wrapped = self._wrap(handler, path)
            self._wrapped[path] = handler, wrapped
        return wrapped

    def _wrap(self, handler: Handled, path: str) -> Handled:
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, path.rpartition("/")[2]),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        assert handler.unary_unary is not None, "no call of ours takes a stream"
        return grpc.unary_unary_rpc_method_handler(
            self._answering(handler.unary_unary, path),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _answering(self, handler: Handler, path: str) -> Handler:
        name, method = path[1:], path.rpartition("/")[2]

        def call(request: Any, context: grpc.ServicerContext) -> Any:
            ids = self._ids(request)
            with about(method=name, **ids) as subject:
                failed = True
                try:
                    answer = handler(request, context)
                    failed = False
                    return answer
                finally:
                    self._time(method, time.monotonic() - subject.started)
                    self._ended(method, context, ids, failed)

        return call

    def _streaming(self, handler: Handler, method: str) -> Handler:
        # What it is about is not set: a generator may be ended in another thread.
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            failed = True
            try:
                yield from handler(request, context)
                failed = False
            finally:
                self._ended(method, context, self._ids(request), failed)

        return call

    def _ids(self, request: Any) -> dict[str, str]:
        kind = type(request)
        names = self._fields.get(kind)
        if names is None:
            descriptor = getattr(kind, "DESCRIPTOR", None)
            there = descriptor.fields_by_name if descriptor else {}
            names = self._fields[kind] = tuple(name for name in ID_FIELDS if name in there)
        found = ((name, getattr(request, name)) for name in names)
        return {name: value for name, value in found if _is_id(value)}

    def _time(self, method: str, seconds: float) -> None:
        observe = self._seconds.get(method)
        if observe is None:
            observe = self._seconds[method] = metrics.CALL_SECONDS.labels(method).observe
        observe(seconds)

    def _ended(
        self, method: str, context: grpc.ServicerContext, ids: dict[str, str], failed: bool
    ) -> None:
        code = _code(context, failed)
        count = self._counts.get((method, code))
        if count is None:
            # From the beginning at 0, since the first of them is to be seen.
            metrics.CALLS.labels(method, "INTERNAL")
            count = self._counts[method, code] = metrics.CALLS.labels(method, code).inc
        count()
        if code in HOST_FAILURES:
            flight.log_failure(ids.get("volume_id") or ids.get("snapshot_id", ""))


def _is_id(value: str) -> bool:
    """Whether it may stand in the log: nobody has looked at the request yet."""
    return 0 < len(value) <= ID_LENGTH_MAX and value.isascii() and value.isprintable()


def _code(context: grpc.ServicerContext, failed: bool) -> str:
    # The published types lack it.
    code = cast(Any, context).code()
    if code is not None:
        return str(code.name)
    if not context.is_active():
        return "CANCELLED"
    return "UNKNOWN" if failed else "OK"
