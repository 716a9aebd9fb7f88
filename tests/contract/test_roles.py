"""Each role over mutual TLS, against every method: on the simulated and on the real host."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import pytest
import targetd_driver
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from targetd_driver import TargetdDriver

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.roles import Role
from targetd.server.access import rule_of
from tests.answers import answer_of
from tests.hosts import Host, SimulatedBacking, refused_with

ROLES = (Role.VIEWER, Role.ATTACHER, Role.ADMIN)
OURS = [
    method
    for file in (volume_pb2, export_pb2, host_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
SECONDS = 30.0


@contextmanager
def channel_of(host: Host, role: Role) -> Iterator[grpc.Channel]:
    with host.backing.endpoint_for(role).channel() as channel:
        yield channel


def code_of(channel: grpc.Channel, path: str, method: MethodDescriptor) -> grpc.StatusCode:
    """What an empty request is answered with: which changes nothing."""
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = make(
        path,
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        answer: Any = call(GetMessageClass(method.input_type)(), timeout=SECONDS)
        if method.server_streaming:
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        code = cast(grpc.Call, error).code()
        assert code is not None
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_call_what_its_rules_say(host: Host, role: Role) -> None:
    refused = set()
    with channel_of(host, role) as channel:
        for method in OURS:
            path = f"/{method.containing_service.full_name}/{method.name}"
            code = code_of(channel, path, method)
            assert code in (
                grpc.StatusCode.OK,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.PERMISSION_DENIED,
            ), f"{path}: {code}"
            assert (code is grpc.StatusCode.PERMISSION_DENIED) is (role not in rule_of(path).roles)
            refused |= {path} if code is grpc.StatusCode.PERMISSION_DENIED else set()
    assert bool(refused) is (role is not Role.ADMIN)


@pytest.mark.parametrize("role", ROLES)
def test_every_role_sees_health_and_reflection(host: Host, role: Role) -> None:
    with channel_of(host, role) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        (told,) = stub.ServerReflectionInfo(asked, timeout=SECONDS)
        names = {service.name for service in told.list_services_response.service}
        assert "targetd.v1.VolumeService" in names


def test_a_client_without_role_gets_nothing(host: Host) -> None:
    with channel_of(host, Role.NONE) as channel:
        for method in OURS:
            path = f"/{method.containing_service.full_name}/{method.name}"
            assert code_of(channel, path, method) is grpc.StatusCode.PERMISSION_DENIED
        health: Any = health_pb2_grpc.HealthStub(channel)
        with refused_with(grpc.StatusCode.PERMISSION_DENIED):
            health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        with refused_with(grpc.StatusCode.PERMISSION_DENIED):
            next(health.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS))
        with refused_with(grpc.StatusCode.PERMISSION_DENIED):
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            next(stub.ServerReflectionInfo(iter([]), timeout=SECONDS))


def test_a_refusal_names_the_role_that_is_needed(host: Host) -> None:
    volume_id = str(uuid.uuid4())
    with channel_of(host, Role.VIEWER) as channel:
        delete = channel.unary_unary(
            "/targetd.v1.VolumeService/DeleteVolume",
            request_serializer=volume_pb2.DeleteVolumeRequest.SerializeToString,
            response_deserializer=volume_pb2.DeleteVolumeResponse.FromString,
        )
        with refused_with(grpc.StatusCode.PERMISSION_DENIED) as caught:
            delete(volume_pb2.DeleteVolumeRequest(volume_id=volume_id), timeout=SECONDS)
    error = cast(grpc.Call, caught[0])
    assert "DeleteVolume needs the role admin, " in (error.details() or "")
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("FORBIDDEN", "targetd")
    assert dict(info.metadata) == {"role": "viewer", "roles_needed": "admin"}


def driver_for(host: Host, role: Role) -> TargetdDriver:
    return TargetdDriver(host.backing.endpoint_for(role), timeout_seconds=SECONDS)


@pytest.mark.parametrize("role", [Role.ATTACHER, Role.ADMIN])
def test_the_driver_attaches_with_a_certificate(host: Host, role: Role) -> None:
    volume = {"id": host.create()}
    connector = {"initiator": host.backing.initiator("a"), "host": "a"}
    with driver_for(host, role) as driver:
        driver.validate_connector(connector)
        driver.create_export(None, volume)
        data = driver.initialize_connection(volume, connector)["data"]
        assert host.backing.log_in("a", data)
        host.backing.log_out("a", data)
        assert driver.terminate_connection(volume, connector) is False
        driver.remove_export(None, volume)
    assert host.backing.kernel() == {}


@pytest.mark.parametrize("role", [Role.VIEWER, Role.NONE])
def test_the_driver_says_when_it_may_not(host: Host, role: Role) -> None:
    volume = {"id": host.create()}
    connector = {"initiator": host.backing.initiator("a"), "host": "a"}
    with driver_for(host, role) as driver:
        calls = (
            lambda: driver.validate_connector(connector),
            lambda: driver.create_export(None, volume),
            lambda: driver.initialize_connection(volume, connector),
            lambda: driver.terminate_connection(volume, connector),
            lambda: driver.remove_export(None, volume),
        )
        for call in calls:
            with pytest.raises(targetd_driver.Forbidden, match="needs the role attacher or admin"):
                call()
    assert host.backing.kernel() == {}


def test_changes_and_refusals_are_audited_and_reads_are_not(
    simulated_backing: SimulatedBacking, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(simulated_backing)
    volume_id = host.create()
    with driver_for(host, Role.ATTACHER) as driver, driver_for(host, Role.VIEWER) as viewer:
        driver.create_export(None, {"id": volume_id})
        with pytest.raises(targetd_driver.Forbidden):
            viewer.remove_export(None, {"id": volume_id})
        with pytest.raises(targetd_driver.InvalidInput):
            driver.remove_export(None, {"id": "x\nby root: OK"})
    answer_of(host.volumes.GetVolume, volume_pb2.GetVolumeRequest(volume_id=volume_id))
    answer_of(host.volumes.DeleteVolume, volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
    host.close()
    lines: list[Any] = [one for one in caplog.records if one.name == "targetd.audit"]
    told = [
        (line.method.rpartition("/")[2], line.identity, line.role, line.volume_id, line.outcome)
        for line in lines
    ]
    local = ("unix socket", "admin", volume_id)
    assert told == [
        ("CreateVolume", *local, "OK"),
        ("CreateExport", "client-attacher", "attacher", volume_id, "OK"),
        ("RemoveExport", "client-viewer", "viewer", volume_id, "PERMISSION_DENIED FORBIDDEN"),
        ("RemoveExport", "client-attacher", "attacher", r"'x\nby root: OK'", INVALID),
        ("DeleteVolume", *local, "FAILED_PRECONDITION EXPORTED"),
    ]
    assert [line.peer.partition(":")[0] for line in lines] == ["unix", *["ipv4"] * 3, "unix"]
    assert all(line.levelno == logging.INFO and line.duration_ms >= 0 for line in lines)


INVALID = "INVALID_ARGUMENT INVALID_ARGUMENT"
