"""Calls of the daemon, and what their failures mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar, cast

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from targetd_driver import Endpoint, TlsFiles

from targetd.api.v1 import export_pb2_grpc, host_pb2_grpc, volume_pb2_grpc
from targetd.lunctl import hints
from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import OF_CODES, Exit
from targetd.lunctl.reach import unreachable
from targetd.lunctl.settings import Settings

Answer = TypeVar("Answer")


class Client:
    """One daemon. Every call raises CommandError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._channel = _channel(settings)

    @cached_property
    def volumes(self) -> volume_pb2_grpc.VolumeServiceStub:
        return volume_pb2_grpc.VolumeServiceStub(self._channel)

    @cached_property
    def exports(self) -> export_pb2_grpc.ExportServiceStub:
        return export_pb2_grpc.ExportServiceStub(self._channel)

    @cached_property
    def hosts(self) -> host_pb2_grpc.HostServiceStub:
        return host_pb2_grpc.HostServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def call(
        self, method: Callable[..., Answer], request: Any, seconds: float | None = None
    ) -> Answer:
        try:
            return method(request, timeout=self.settings.seconds() if seconds is None else seconds)
        except grpc.RpcError as error:
            # Every error of a call is also the call itself (grpc.RpcError's docs).
            raise self.explained(cast(grpc.Call, error)) from None

    def stream(
        self, method: Callable[..., Iterator[Answer]], request: Any, seconds: float | None = None
    ) -> Iterator[Answer]:
        """As long as it goes on, or not longer than that many seconds."""
        stream = method(request, timeout=seconds)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self.explained(cast(grpc.Call, error)) from None
        finally:
            # The daemon has room for a few who watch: leave at once.
            cast(grpc.Call, stream).cancel()

    def pages(self, method: Callable[..., Any], request: Any, field: str) -> list[Any]:
        """All items of a list, page after page."""
        found: list[Any] = []
        while True:
            answer = self.call(method, request)
            found += getattr(answer, field)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found

    def health(self) -> str:
        """What grpc.health.v1 says of the daemon as a whole, such as SERVING."""
        # The published types of the health stub lack its methods.
        stub: Any = health_pb2_grpc.HealthStub(self._channel)
        answer = self.call(stub.Check, health_pb2.HealthCheckRequest())
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def explained(self, error: grpc.Call) -> CommandError:
        code, message = error.code(), error.details() or ""
        info = _info(error)
        if info is None and code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ):
            # Not the daemon's own words.
            found = unreachable(self.settings, message)
            if found is not None or code is grpc.StatusCode.UNAVAILABLE:
                return found or CommandError(
                    f"the daemon at {self.settings.endpoint} went away: {message}",
                    Exit.UNREACHABLE,
                    hints=("Is it being restarted? systemctl status targetd",),
                )
            message = f"no answer within {self.settings.seconds():g} s"
        reason = info.reason if info else code.name
        metadata = dict(info.metadata) if info else {}
        return CommandError(
            message or code.name,
            OF_CODES.get(code.name, Exit.OTHER),
            reason=reason,
            hints=hints.hints_for(reason, code.name, metadata),
            metadata=metadata,
        )


def _channel(settings: Settings) -> grpc.Channel:
    certificate, key, ca = settings.tls_certificate, settings.tls_key, settings.tls_ca
    tls = TlsFiles(certificate, key, ca) if certificate and key and ca else None
    if tls is None and (certificate or key or ca):
        raise CommandError(
            "--tls-ca, --tls-certificate and --tls-key belong together; one is missing", Exit.USAGE
        )
    try:
        return Endpoint(settings.endpoint, tls).channel()
    except ValueError:
        raise CommandError(
            f"{settings.endpoint}: TCP needs TLS",
            Exit.USAGE,
            hints=(
                "Give --tls-ca, --tls-certificate and --tls-key, or a socket: "
                "--endpoint unix:/run/targetd/targetd.sock",
            ),
        ) from None
    except PermissionError as error:
        raise CommandError(f"{error.filename} cannot be read", Exit.NOT_ALLOWED) from None
    except OSError as error:
        raise CommandError(
            f"{error.filename} cannot be read: {error.strerror}", Exit.USAGE
        ) from None


def _info(error: grpc.Call) -> error_details_pb2.ErrorInfo | None:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info
    return None
