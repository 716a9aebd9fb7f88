"""The gRPC server: a unix socket, and TCP with mutual TLS where configured."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from targetd.api.v1 import (
    export_pb2,
    export_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
)
from targetd.config import Config, TlsConfig
from targetd.errors import StartError
from targetd.server.exports import ExportService
from targetd.server.host import HostService
from targetd.server.interceptor import ErrorInterceptor
from targetd.server.volumes import VolumeService

# Made when they are needed. A device that hangs in the kernel holds the thread of
# the call that met it, and for their deadlines those of the calls behind it.
THREADS = 512
STOP_SECONDS = 1.0
# All requests are a few hundred bytes; more is a mistake or an attack.
RECEIVE_BYTES_MAX = 64 << 10
SERVICES = (
    volume_pb2.DESCRIPTOR.services_by_name["VolumeService"].full_name,
    export_pb2.DESCRIPTOR.services_by_name["ExportService"].full_name,
    host_pb2.DESCRIPTOR.services_by_name["HostService"].full_name,
)


class Server:
    def __init__(self, config: Config) -> None:
        self.health = health.HealthServicer()
        self._calls = ErrorInterceptor()
        self._grpc = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="rpc"),
            interceptors=[self._calls],
            maximum_concurrent_rpcs=THREADS * 2,
            options=[
                ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
                # Another process must not be able to serve beside us unnoticed.
                ("grpc.so_reuseport", 0),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._grpc)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._listen(config)

    def _listen(self, config: Config) -> None:
        """Raises StartError when an address cannot be had."""
        config.socket.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            self._grpc.add_insecure_port(f"unix:{config.socket}")
            if config.listen and config.tls:
                self._grpc.add_secure_port(config.listen, _credentials(config.tls))
        except RuntimeError as error:
            raise StartError(
                f"gRPC cannot listen on {config.socket} and {config.listen or 'no TCP'}; is "
                "another targetd running?"
            ) from error

    def add(self, volumes: VolumeService, exports: ExportService, host: HostService) -> None:
        volume_pb2_grpc.add_VolumeServiceServicer_to_server(volumes, self._grpc)
        export_pb2_grpc.add_ExportServiceServicer_to_server(exports, self._grpc)
        host_pb2_grpc.add_HostServiceServicer_to_server(host, self._grpc)

    def start(self) -> None:
        self._grpc.start()

    def serving(self) -> None:
        """Until now every call but health and reflection was told to come back later."""
        self._calls.serve()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let the running ones end."""
        self.health.enter_graceful_shutdown()
        self._grpc.stop(grace_seconds).wait(grace_seconds + STOP_SECONDS)

    def _set_health(self, status: int) -> None:
        for service in ("", *SERVICES):
            self.health.set(service, status)


def _credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(_bytes(tls.key), _bytes(tls.certificate))],
        root_certificates=_bytes(tls.client_ca),
        require_client_auth=True,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}; see [tls]") from error
