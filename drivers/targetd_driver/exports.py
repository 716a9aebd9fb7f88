"""Which volumes of a storage host have a target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from targetd.api.v1 import export_pb2, export_pb2_grpc
from targetd_driver.calls import Calls


@dataclass(frozen=True)
class Export:
    volume_id: str
    target_iqn: str
    # "address:port", IPv6 in brackets.
    portals: tuple[str, ...]
    # Who has access.
    attachment_ids: tuple[str, ...]


class Exports:
    """Safe for use by several threads. Every call raises DriverError or a kind of it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = export_pb2_grpc.ExportServiceStub(calls.channel)

    def list(self) -> Iterator[Export]:
        request = export_pb2.ListExportsRequest()
        return map(_export, self._calls.pages(self._stub.ListExports, request, "exports"))


def _export(message: export_pb2.Export) -> Export:
    return Export(
        volume_id=message.volume_id,
        target_iqn=message.target_iqn,
        portals=tuple(message.portals),
        attachment_ids=tuple(message.attachment_ids),
    )
