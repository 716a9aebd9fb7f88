"""Calls sent as bytes, many at a time, and every answer judged.

Written with asyncio, since handing each call from thread to thread costs more
than the call.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import grpc
from targetd_driver import Endpoint

from targetd.server.limits import RECEIVE_BYTES_MAX
from tests.answers import reason_of
from tests.fuzz import Call

UNARY_SECONDS, STREAM_SECONDS = 60.0, 0.2
# More would fill the queue of a volume, and BUSY would be all that is seen.
IN_FLIGHT = 16
# What a request can be refused with; there is no UNKNOWN, INTERNAL or UNAVAILABLE.
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNIMPLEMENTED,
}
# What does not depend on anything but the request.
WRONG_IN_ITSELF = ("INVALID_ARGUMENT", "unreadable", "unknown", "too large")
# What is an invalid argument because of what there is: a source that is bigger, a thin
# volume, another volume that initiators would take for this one.
WRONG_NOW = re.compile(r"at least its source's|is thin, and its snapshots|in common with volume")


class Storm:
    """Sends calls; ``heard`` gets each answer of what was done."""

    def __init__(
        self, endpoint: Endpoint, heard: Callable[[bytes], None], in_flight: int = IN_FLIGHT
    ) -> None:
        self._runner = asyncio.Runner()
        self._channel = self._runner.run(_channel(endpoint))
        self._heard = heard
        self._in_flight = in_flight
        self._random = random.Random(0)
        # What became of the calls, and how many of each method were done.
        self.seen = Counter[str]()
        self.done = Counter[str]()

    def __enter__(self) -> Storm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._channel.close())
        self._runner.close()

    def send(self, calls: Iterable[Call]) -> list[tuple[Call, str]]:
        """Returns each call with what became of it, in the order of the answers."""
        sent = self._runner.run(self._send(calls))
        self.seen.update(outcome for _, outcome in sent)
        self.done.update(call.name for call, outcome in sent if outcome in ("done", "watched"))
        return sent

    async def _send(self, calls: Iterable[Call]) -> list[tuple[Call, str]]:
        waiting, sent = iter(calls), list[tuple[Call, str]]()

        async def go() -> None:
            for call in waiting:
                sent.append((call, await self._outcome(call)))

        await asyncio.gather(*(go() for _ in range(self._in_flight)))
        return sent

    async def _outcome(self, call: Call) -> str:
        try:
            if call.streams:
                async for answer in self._begin(call, STREAM_SECONDS):
                    self._heard(answer)
            else:
                self._heard(await self._begin(call, UNARY_SECONDS))
        except grpc.RpcError as error:
            return refusal(call, error)
        assert call.known and call.readable, f"{call} was done"
        return "done"

    def _begin(self, call: Call, seconds: float) -> Any:
        channel: Any = self._channel
        of_kind = channel.unary_stream if call.streams else channel.unary_unary
        return of_kind(call.method)(call.data, timeout=seconds)

    def send_again(self, calls: Iterable[Call]) -> None:
        """Calls that were wrong in themselves, and must be so still."""
        self.seen["again"] += self._runner.run(self._send_again(calls))

    async def _send_again(self, calls: Iterable[Call]) -> int:
        waiting, refused = iter(calls), 0

        async def go() -> None:
            nonlocal refused
            for call in waiting:
                code = await self._begin(call, UNARY_SECONDS).code()
                assert code in REFUSALS, f"{call} was wrong, and is now {code}"
                refused += 1

        await asyncio.gather(*(go() for _ in range(self._in_flight)))
        return refused

    def send_and_leave(self, calls: Iterable[Call]) -> None:
        """Callers that hang up, or whose deadline passes, at any moment."""
        self.seen["left"] += self._runner.run(self._send_and_leave(calls))

    async def _send_and_leave(self, calls: Iterable[Call]) -> int:
        left = []
        for call in calls:
            left.append(self._begin(call, self._random.choice((0.0, 0.0005, 0.002, 0.01))))
            await asyncio.sleep(self._random.choice((0.0, 0.0005)))
            if self._random.random() < 0.5:
                left[-1].cancel()
        for begun in left:
            await begun.code()
        return len(left)


async def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    """It belongs to the loop in which it is made."""
    if endpoint.tls is None:
        return grpc.aio.insecure_channel(endpoint.address)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=endpoint.tls.ca.read_bytes(),
        private_key=endpoint.tls.key.read_bytes(),
        certificate_chain=endpoint.tls.certificate.read_bytes(),
    )
    return grpc.aio.secure_channel(endpoint.address, credentials)


def refusal(call: Call, error: Any) -> str:
    """What kind of refusal it is; it must be one that the contract allows."""
    code, details = error.code(), error.details()
    what = f"{call.method[-40:]} {call.data[:200]!r}: {code}: {details}"
    if call.streams and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "watched"
    # gRPC itself answers what never gets as far as a method of ours.
    if not call.known:
        assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!"), what
        return "unknown"
    if len(call.data) > RECEIVE_BYTES_MAX:
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, what
        assert details.startswith("SERVER: Received message larger than max"), what
        return "too large"
    if not call.readable:
        assert code is grpc.StatusCode.INVALID_ARGUMENT, what
        reason_of(error)
        return "unreadable"
    assert code in REFUSALS, what
    assert details.isprintable(), what
    reason_of(error)
    if code is grpc.StatusCode.INVALID_ARGUMENT and WRONG_NOW.search(details):
        return "wrong now"
    return str(code.name)
