"""Connections that cannot be held for nothing: uvicorn's, with limits that it has not."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# For a client to send a whole request, and to take an answer that is on its way.
CLIENT_SECONDS = 60.0
# Each has a file descriptor, and some memory.
CONNECTIONS_MAX = 2000


class PatientProtocol(H11Protocol):
    """Ends a connection on which a client sends, or reads, too slowly."""

    client_seconds = CLIENT_SECONDS
    connections_max = CONNECTIONS_MAX
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override] # as in its base
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.abort()
            return
        self._reading = self._ending()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._has_request():
            self._reading = self._reading or self._ending()
        elif self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _has_request(self) -> bool:
        """A whole one, that is being answered."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self._writing or self._ending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _ending(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.client_seconds, self.transport.abort)
