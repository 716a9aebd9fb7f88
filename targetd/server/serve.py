"""The gRPC server: a unix socket, and TCP with mutual TLS where configured."""

from __future__ import annotations

import os
from contextlib import suppress
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
from targetd.config import Config
from targetd.errors import StartError
from targetd.server.exports import ExportService
from targetd.server.gate import Gate
from targetd.server.host import HostService
from targetd.server.interceptor import CallInterceptor
from targetd.server.limits import CALLS_MAX, OPTIONS, THREADS
from targetd.server.observing import ObservingInterceptor
from targetd.server.threads import CallThreads
from targetd.server.tls import Certificates
from targetd.server.volumes import VolumeService

STOP_SECONDS = 1.0
# The directory says who may get at it: it is for those of the directory's group.
SOCKET_MODE = 0o660
VOLUME_SERVICE = volume_pb2.DESCRIPTOR.services_by_name["VolumeService"].full_name
SERVICES = (
    VOLUME_SERVICE,
    export_pb2.DESCRIPTOR.services_by_name["ExportService"].full_name,
    host_pb2.DESCRIPTOR.services_by_name["HostService"].full_name,
)


class Server:
    def __init__(self, config: Config) -> None:
        self.health = health.HealthServicer()
        self._gate = Gate(config)
        self._certificates = Certificates(config.tls) if config.listen and config.tls else None
        # Of TCP; interesting where the configuration says port 0, which is any.
        self.port = 0
        self._threads = CallThreads(THREADS, config.calls_per_client)
        self._grpc = grpc.server(
            self._threads,
            interceptors=[ObservingInterceptor(), CallInterceptor(self._gate)],
            maximum_concurrent_rpcs=CALLS_MAX,
            options=OPTIONS,
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
            _open_to_group(config.socket)
            if self._certificates:
                self.port = self._grpc.add_secure_port(
                    config.listen, self._certificates.credentials()
                )
            elif config.listen:
                self.port = self._grpc.add_insecure_port(config.listen)
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
        self._gate.serve()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def reload(self, config: Config) -> None:
        """Take certificates, roles and limits anew; open connections stay.

        Raises StartError when the certificates are not right; then nothing changes. Where
        to listen, and whether with TLS, is for a restart.
        """
        if self._certificates and config.tls:
            self._certificates.reload(config.tls)
        self._gate.configure(config)
        self._threads.share = config.calls_per_client

    def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let the running ones end."""
        self.health.enter_graceful_shutdown()
        self._grpc.stop(grace_seconds).wait(grace_seconds + STOP_SECONDS)

    def set_serving(self, service: str, serves: bool) -> None:
        """``service``: one of ours, or an empty text for the server as a whole."""
        status = health_pb2.HealthCheckResponse
        self.health.set(service, status.SERVING if serves else status.NOT_SERVING)

    def _set_health(self, status: int) -> None:
        for service in ("", *SERVICES):
            self.health.set(service, status)


def _open_to_group(path: Path) -> None:
    """Raises nothing: where the group cannot be given away, the maker's own group stays."""
    with suppress(PermissionError):
        os.chown(path, -1, path.parent.stat().st_gid)
    os.chmod(path, SOCKET_MODE)
