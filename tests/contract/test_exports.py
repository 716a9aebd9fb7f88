"""ExportService: the same tests on the simulated and on the real host."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from targetd.api.v1 import export_pb2, volume_pb2
from tests.hosts import Host, properties_of, refused_with

Terminate = export_pb2.TerminateConnectionRequest


def test_export_repeated_gives_the_same(host: Host) -> None:
    volume_id = host.create()
    request = export_pb2.CreateExportRequest(volume_id=volume_id)
    first, *others = (host.exports.CreateExport(request) for _ in range(5))
    assert first.target_iqn.endswith(f":{volume_id}")
    assert all(other == first for other in others)
    assert set(host.backing.kernel()) == {first.target_iqn}
    for _ in range(3):
        host.exports.RemoveExport(export_pb2.RemoveExportRequest(volume_id=volume_id))
    assert host.backing.kernel() == {}


def test_attach_repeated_gives_the_same_secret_and_a_new_grant_a_new_one(host: Host) -> None:
    volume_id = host.create()
    first, *others = (host.attach(volume_id) for _ in range(5))
    assert all(other == first for other in others)
    assert len(first.auth_password) == 16
    assert list(first.target_portals) and len(first.target_iqns) == len(first.target_portals)
    host.detach(volume_id)
    assert host.attach(volume_id).auth_password != first.auth_password


@pytest.mark.virtual
def test_only_the_attached_initiator_gets_in(host: Host) -> None:
    volume_id = host.create()
    given = properties_of(host.attach(volume_id, "a"))
    assert not host.backing.log_in("b", given)
    assert not host.backing.log_in("a", {**given, "auth_password": "wrongwrongwrong1"})
    assert host.backing.log_in("a", given)
    answer = host.detach(volume_id, "a")
    assert answer.sessions_closed
    assert not answer.shared
    assert host.backing.kernel() == {given["target_iqn"]: set()}
    host.backing.log_out("a", given)
    assert not host.backing.log_in("a", given)


@pytest.mark.virtual
def test_status_tells_attached_from_logged_in(host: Host) -> None:
    volume_id = host.create()
    given = properties_of(host.attach(volume_id))
    request = export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id="attachment-a")
    connection = host.exports.GetConnection(request)
    assert connection.authorized and not connection.logged_in
    assert host.backing.log_in("a", given)
    connection = host.exports.GetConnection(request)
    assert connection.logged_in and len(connection.peer_addresses) == 1
    sessions = host.exports.ListSessions(
        export_pb2.ListSessionsRequest(volume_id=volume_id)
    ).sessions
    assert [list(session.attachment_ids) for session in sessions] == [["attachment-a"]]
    host.backing.log_out("a", given)
    assert not host.exports.GetConnection(request).logged_in


@pytest.mark.virtual
def test_terminate_refuses_a_live_session_on_request(host: Host) -> None:
    volume_id = host.create()
    given = properties_of(host.attach(volume_id))
    assert host.backing.log_in("a", given)
    request = Terminate(volume_id=volume_id, attachment_id="attachment-a", refuse_if_logged_in=True)
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION):
        host.exports.TerminateConnection(request)
    host.backing.log_out("a", given)
    assert not host.exports.TerminateConnection(request).sessions_closed


@pytest.mark.virtual
def test_second_host_needs_multi_attach(host: Host) -> None:
    volume_id = host.create()
    host.attach(volume_id, "a")
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION) as caught:
        host.attach(volume_id, "b")
    assert "attachment-a" in str(caught[0].details())
    assert [len(acls) for acls in host.backing.kernel().values()] == [1]


@pytest.mark.virtual
def test_a_peer_is_not_harmed(host: Host) -> None:
    volume_id = host.create(multi_attach=True)
    for_a, for_b = (properties_of(host.attach(volume_id, name)) for name in ("a", "b"))
    assert for_a["auth_password"] != for_b["auth_password"]
    assert host.backing.log_in("a", for_a) and host.backing.log_in("b", for_b)
    export = host.exports.GetExport(export_pb2.GetExportRequest(volume_id=volume_id))
    assert export.shared and list(export.attachment_ids) == ["attachment-a", "attachment-b"]
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION):
        host.exports.RemoveExport(export_pb2.RemoveExportRequest(volume_id=volume_id))
    answer = host.detach(volume_id, "a")
    assert answer.shared and list(answer.remaining_attachment_ids) == ["attachment-b"]
    connection = host.exports.GetConnection(
        export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id="attachment-b")
    )
    assert connection.logged_in
    for name, given in (("a", for_a), ("b", for_b)):
        host.backing.log_out(name, given)


def test_two_attachments_of_one_initiator_share_its_acl(host: Host) -> None:
    volume_id = host.create()
    first = host.attach(volume_id, "a", "one")
    second = host.attach(volume_id, "a", "two")
    assert second.auth_password == first.auth_password
    with refused_with(grpc.StatusCode.FAILED_PRECONDITION):
        host.attach(volume_id, "a", "three", export_pb2.ACCESS_MODE_RO)
    assert host.detach(volume_id, attachment_id="one").shared
    assert [len(acls) for acls in host.backing.kernel().values()] == [1]
    host.detach(volume_id, attachment_id="two")
    assert [len(acls) for acls in host.backing.kernel().values()] == [0]


def test_same_attachment_with_other_parameters_already_exists(host: Host) -> None:
    volume_id = host.create(multi_attach=True)
    host.attach(volume_id, "a", "one")
    with refused_with(grpc.StatusCode.ALREADY_EXISTS):
        host.attach(volume_id, "b", "one")
    with refused_with(grpc.StatusCode.ALREADY_EXISTS):
        host.attach(volume_id, "a", "one", export_pb2.ACCESS_MODE_RO)


def test_terminate_by_connector_ignores_case_and_absent_is_fine(host: Host) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    connector = host.connector("a")
    connector.initiator = connector.initiator.upper().replace("IQN", "iqn", 1)
    for _ in range(3):
        host.exports.TerminateConnection(Terminate(volume_id=volume_id, connector=connector))
        assert [len(acls) for acls in host.backing.kernel().values()] == [0]
    unknown = Terminate(volume_id=str(uuid.uuid4()), attachment_id="one")
    assert not host.exports.TerminateConnection(unknown).shared


def test_unknown_things_are_not_found(host: Host) -> None:
    unknown, known = str(uuid.uuid4()), host.create()
    not_found = refused_with(grpc.StatusCode.NOT_FOUND)
    with not_found:
        host.exports.CreateExport(export_pb2.CreateExportRequest(volume_id=unknown))
    for call in (
        lambda: host.exports.GetExport(export_pb2.GetExportRequest(volume_id=known)),
        lambda: host.attach(unknown),
        lambda: host.exports.GetConnection(
            export_pb2.GetConnectionRequest(volume_id=known, attachment_id="none")
        ),
        lambda: host.volumes.ExtendVolume(
            volume_pb2.ExtendVolumeRequest(volume_id=unknown, size_bytes=1)
        ),
    ):
        with refused_with(grpc.StatusCode.NOT_FOUND):
            call()


def test_the_same_call_many_times_at_once(host: Host) -> None:
    volume_id = host.create()
    with ThreadPoolExecutor(6) as threads:
        given = list(threads.map(lambda _: host.attach(volume_id).auth_password, range(6)))
    assert len(set(given)) == 1
    assert [len(acls) for acls in host.backing.kernel().values()] == [1]


def test_attachments_survive_a_kill(host: Host) -> None:
    volume_id = host.create()
    before = host.attach(volume_id)
    assert host.backing.log_in("a", properties_of(before))
    host.backing.restart()
    host.exports.GetExport(export_pb2.GetExportRequest(volume_id=volume_id), wait_for_ready=True)
    assert host.attach(volume_id) == before
    connection = host.exports.GetConnection(
        export_pb2.GetConnectionRequest(volume_id=volume_id, attachment_id="attachment-a")
    )
    assert connection.logged_in
    host.backing.log_out("a", properties_of(before))
