"""Every field of every request, with bad values: INVALID_ARGUMENT naming the field."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from tests.hosts import MEBIBYTE, Host, refused_with

ID = str(uuid.UUID(int=0x1234))
BAD_UUIDS = (
    "",
    "x",
    ID.upper() + "F",
    ID[:-1],
    f"{ID}\n",
    "../../etc/passwd",
    "$(reboot)",
    "ü" * 36,
)
BAD_NAMES = ("-rf", "a b", "a/b", "a" * 65, "\0", "ü", "a;b")
BAD_INITIATORS = (
    "",
    "host",
    "iqn.2026-13.org.example:a",
    "iqn.2026-01.org:a",
    "iqn.2026-01.org.example:a_b",
    "iqn.2026-01.org.example:a/../b",
    "iqn.2026-01.org.example:" + "a" * 200,
    "eui.0123",
)
LONG = "x" * 256
GOOD_CONNECTOR = export_pb2.Connector(initiator="iqn.2026-01.org.example:a")


def cases() -> Iterator[tuple[str, str, Any, str]]:
    """Service, method, request, and the field that the answer must name."""
    for bad in BAD_UUIDS:
        for service, method, request in (
            ("volumes", "CreateVolume", volume_pb2.CreateVolumeRequest(size_bytes=MEBIBYTE)),
            ("volumes", "GetVolume", volume_pb2.GetVolumeRequest()),
            ("volumes", "ExtendVolume", volume_pb2.ExtendVolumeRequest(size_bytes=MEBIBYTE)),
            ("volumes", "DeleteVolume", volume_pb2.DeleteVolumeRequest()),
            ("exports", "CreateExport", export_pb2.CreateExportRequest()),
            ("exports", "GetExport", export_pb2.GetExportRequest()),
            ("exports", "RemoveExport", export_pb2.RemoveExportRequest()),
            ("exports", "InitializeConnection", _initialize()),
            ("exports", "TerminateConnection", _terminate(attachment_id="one")),
            ("exports", "GetConnection", export_pb2.GetConnectionRequest(attachment_id="one")),
        ):
            request.volume_id = bad
            yield service, method, request, "volume_id"
    for bad in BAD_UUIDS[1:]:
        for method in ("ListConnections", "ListSessions"):
            request = getattr(export_pb2, f"{method}Request")(volume_id=bad)
            yield "exports", method, request, "volume_id"
        for field in ("source_snapshot_id", "source_volume_id"):
            yield "volumes", "CreateVolume", _create(**{field: bad}), field
    for size in (0, -1, (1 << 60) + 1, -(1 << 63), (1 << 63) - 1):
        yield "volumes", "CreateVolume", _create(size_bytes=size), "size_bytes"
        extend = volume_pb2.ExtendVolumeRequest(volume_id=ID, size_bytes=size)
        yield "volumes", "ExtendVolume", extend, "size_bytes"
    for bad in (*BAD_NAMES, "unknown"):
        yield "volumes", "CreateVolume", _create(pool=bad), "pool"
        yield "volumes", "ListVolumes", volume_pb2.ListVolumesRequest(pool=bad), "pool"
    for bad in ("", *BAD_NAMES):
        yield "exports", "InitializeConnection", _initialize(attachment_id=bad), "attachment_id"
        get = export_pb2.GetConnectionRequest(volume_id=ID, attachment_id=bad)
        yield "exports", "GetConnection", get, "attachment_id"
        yield "exports", "TerminateConnection", _terminate(attachment_id=bad), "attachment_id"
    yield "exports", "TerminateConnection", _terminate(), "attachment_id"
    yield "exports", "InitializeConnection", _initialize(access_mode=9), "access_mode"
    yield from _connector_cases()
    yield from _page_cases()
    for bad in ("", "x" * 65, "\n"):
        yield (
            "hosts",
            "GetOperation",
            host_pb2.GetOperationRequest(operation_id=bad),
            "operation_id",
        )


def _connector_cases() -> Iterator[tuple[str, str, Any, str]]:
    wrong = [(export_pb2.Connector(initiator=bad), "initiator") for bad in BAD_INITIATORS]
    wrong += [(_connector(ip=bad), "ip") for bad in ("x", "1.2.3", "1.2.3.4; reboot", "::g")]
    wrong += [
        (_connector(**{field: bad}), field)
        for field in ("host", "platform", "os_type", "mountpoint")
        for bad in (LONG, "a\nb", "\x1b[31m")
    ]
    for connector, field in wrong:
        validate = export_pb2.ValidateConnectorRequest(connector=connector)
        yield "exports", "ValidateConnector", validate, f"connector.{field}"
        initialize = _initialize(connector=connector)
        yield "exports", "InitializeConnection", initialize, f"connector.{field}"
        terminate = _terminate(connector=connector)
        yield "exports", "TerminateConnection", terminate, f"connector.{field}"


def _page_cases() -> Iterator[tuple[str, str, Any, str]]:
    for service, module, method in (
        ("volumes", volume_pb2, "ListVolumes"),
        ("exports", export_pb2, "ListExports"),
        ("exports", export_pb2, "ListConnections"),
        ("exports", export_pb2, "ListSessions"),
    ):
        request = getattr(module, f"{method}Request")
        for size in (-1, 1001, 2**31 - 1):
            yield service, method, request(page_size=size), "page_size"
        for token in ("x", LONG * 2, "\n"):
            yield service, method, request(page_token=token), "page_token"


def _create(**fields: Any) -> volume_pb2.CreateVolumeRequest:
    return volume_pb2.CreateVolumeRequest(
        **{"volume_id": ID, "pool": "thin", "size_bytes": MEBIBYTE, **fields}
    )


def _connector(**fields: Any) -> export_pb2.Connector:
    return export_pb2.Connector(initiator=GOOD_CONNECTOR.initiator, **fields)


def _initialize(**fields: Any) -> export_pb2.InitializeConnectionRequest:
    return export_pb2.InitializeConnectionRequest(
        **{"volume_id": ID, "attachment_id": "one", "connector": GOOD_CONNECTOR, **fields}
    )


def _terminate(**fields: Any) -> export_pb2.TerminateConnectionRequest:
    return export_pb2.TerminateConnectionRequest(**{"volume_id": ID, **fields})


def test_every_bad_field_is_named_and_nothing_is_changed(host: Host) -> None:
    tried = 0
    for service, method, request, field in cases():
        with refused_with(grpc.StatusCode.INVALID_ARGUMENT) as caught:
            getattr(getattr(host, service), method)(request)
        assert field in fields_of(caught[0]), f"{method} {request} named {fields_of(caught[0])}"
        tried += 1
    assert tried > 200
    assert host.backing.volumes() == set()
    assert host.backing.kernel() == {}


def fields_of(error: grpc.RpcError) -> list[str]:
    status = rpc_status.from_call(cast(grpc.Call, error))
    named = []
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            named += [violation.field for violation in request.field_violations]
        detail.Unpack(info)
    assert info.domain == "targetd"
    assert info.reason
    return named


def test_a_request_too_large_is_refused(host: Host) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        host.exports.ValidateConnector(
            export_pb2.ValidateConnectorRequest(connector=_connector(host="x" * (1 << 17)))
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
