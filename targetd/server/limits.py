"""What one client can take from the others: bounded, per connection and per client."""

from __future__ import annotations

import threading

from targetd.errors import ResourceExhausted

# Made when they are needed. A device that hangs in the kernel holds the thread of
# the call that met it, and for their deadlines those of the calls behind it.
THREADS = 512
# Of all clients, most of them waiting; each costs some kilobytes.
CALLS_MAX = 16384
# Each holds a thread for as long as it is watched.
STREAMS_PER_CLIENT = 16
# All requests are a few hundred bytes; more is a mistake or an attack.
RECEIVE_BYTES_MAX = 64 << 10
HEADER_BYTES_MAX = 8 << 10
# A client's library keeps further calls back until others of the connection have ended. gRPC
# refuses some before that, when it has not yet freed the memory of as many as this: so
# it is far above what one client may have under way.
STREAMS_PER_CONNECTION = 1024
# For each listener, so that connections from other hosts never shut out this one's.
CONNECTIONS_MAX = 512
HANDSHAKE_SECONDS_MAX = 20
IDLE_SECONDS_MAX = 15 * 60
# A day: a client whose authority is no longer trusted is not served for ever on an
# open connection. Its calls have an hour to end, and a watcher watches again.
AGE_SECONDS_MAX = 24 * 3600
AGE_GRACE_SECONDS = 3600
# A client that died without a word, and with it its Watch, is noticed in 40 s.
KEEPALIVE_SECONDS = 30
KEEPALIVE_TIMEOUT_SECONDS = 10
# Clients may ask as often whether we are there.
CLIENT_PING_SECONDS_MIN = 10
CLIENT_PING_STRIKES = 2

OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    ("grpc.max_metadata_size", HEADER_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", HEADER_BYTES_MAX),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS_MAX * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS_MAX * 1000),
    ("grpc.max_connection_age_ms", AGE_SECONDS_MAX * 1000),
    ("grpc.max_connection_age_grace_ms", AGE_GRACE_SECONDS * 1000),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    # A ping for another purpose that is not answered keeps the next one back.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    # Also between calls, and however long a watcher is told nothing.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_SECONDS_MIN * 1000),
    ("grpc.http2.max_ping_strikes", CLIENT_PING_STRIKES),
    # Another process must not be able to serve beside us unnoticed.
    ("grpc.so_reuseport", 0),
)


class AtOnce:
    """Counts what each client has under way."""

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self._what = what
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}

    def enter(self, identity: str) -> None:
        """Raises ResourceExhausted; to be followed by ``leave`` otherwise."""
        with self._lock:
            count = self._under_way.get(identity, 0)
            if count < self.most:
                self._under_way[identity] = count + 1
                return
        raise ResourceExhausted(
            f"{identity} has {self.most} {self._what} under way; wait for one of them to end",
            reason="TOO_MANY_CALLS",
        )

    def leave(self, identity: str) -> None:
        with self._lock:
            count = self._under_way.pop(identity) - 1
            if count:
                self._under_way[identity] = count
