"""ExportService."""

from __future__ import annotations

import grpc

from targetd.api.v1 import export_pb2, export_pb2_grpc
from targetd.catalog import Catalog
from targetd.connections import Connections, Grant
from targetd.exports import Exports
from targetd.model import AccessMode, Connection, Export, Provisioning, Session
from targetd.naming import Naming
from targetd.observations import Observations
from targetd.server.convert import connection_message, export_message, page, properties_message
from targetd.server.deadline import deadline_of
from targetd.validation import Violations

MODES = {
    export_pb2.ACCESS_MODE_UNSPECIFIED: AccessMode.READ_WRITE,
    export_pb2.ACCESS_MODE_RW: AccessMode.READ_WRITE,
    export_pb2.ACCESS_MODE_RO: AccessMode.READ_ONLY,
}


class ExportService(export_pb2_grpc.ExportServiceServicer):
    def __init__(
        self,
        catalog: Catalog,
        exports: Exports,
        connections: Connections,
        observations: Observations,
        naming: Naming,
    ) -> None:
        self._catalog = catalog
        self._exports = exports
        self._connections = connections
        self._observations = observations
        self._naming = naming

    def _message(self, export: Export) -> export_pb2.Export:
        count = self._observations.last_session_count(export.volume_id)
        return export_message(export, self._catalog, self._naming, count)

    def CreateExport(
        self, request: export_pb2.CreateExportRequest, context: grpc.ServicerContext
    ) -> export_pb2.Export:
        _check_volume_id(request.volume_id)
        export = self._exports.create(request.volume_id, deadline_of(context))
        message = self._message(export)
        if export.credentials is not None:
            message.auth_username = export.credentials.username
            message.auth_password = export.credentials.password
        return message

    def GetExport(
        self, request: export_pb2.GetExportRequest, context: grpc.ServicerContext
    ) -> export_pb2.Export:
        _check_volume_id(request.volume_id)
        export = self._catalog.export(request.volume_id)
        self._observations.session_count(request.volume_id)
        return self._message(export)

    def ListExports(
        self, request: export_pb2.ListExportsRequest, context: grpc.ServicerContext
    ) -> export_pb2.ListExportsResponse:
        _check_page(request.page_size, request.page_token)
        shown, token = page(
            self._catalog.exports(),
            lambda export: export.volume_id,
            request.page_size,
            request.page_token,
        )
        return export_pb2.ListExportsResponse(
            exports=[self._message(export) for export in shown], next_page_token=token
        )

    def RemoveExport(
        self, request: export_pb2.RemoveExportRequest, context: grpc.ServicerContext
    ) -> export_pb2.RemoveExportResponse:
        _check_volume_id(request.volume_id)
        self._exports.remove(request.volume_id, deadline_of(context))
        return export_pb2.RemoveExportResponse()

    def ValidateConnector(
        self, request: export_pb2.ValidateConnectorRequest, context: grpc.ServicerContext
    ) -> export_pb2.ValidateConnectorResponse:
        violations = Violations()
        violations.connector("connector", request.connector)
        violations.raise_if_any()
        return export_pb2.ValidateConnectorResponse()

    def InitializeConnection(
        self, request: export_pb2.InitializeConnectionRequest, context: grpc.ServicerContext
    ) -> export_pb2.InitializeConnectionResponse:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        violations.attachment_id("attachment_id", request.attachment_id)
        violations.connector("connector", request.connector)
        violations.check(
            request.access_mode in MODES, "access_mode", "must be ACCESS_MODE_RW or ACCESS_MODE_RO"
        )
        violations.raise_if_any()
        grant = Grant(
            volume_id=request.volume_id,
            attachment_id=request.attachment_id,
            initiator=request.connector.initiator.lower(),
            host=request.connector.host,
            access_mode=MODES[request.access_mode],
            mutual_chap=request.mutual_chap,
        )
        connection = self._connections.initialize(grant, deadline_of(context))
        return export_pb2.InitializeConnectionResponse(
            properties=self._properties(connection, request.connector.enforce_multipath)
        )

    def _properties(
        self, connection: Connection, enforce_multipath: bool
    ) -> export_pb2.ConnectionProperties:
        pool = self._catalog.volume(connection.volume_id).pool
        return properties_message(
            connection,
            iqn=self._naming.iqn(connection.volume_id),
            portals=self._naming.portals,
            discard=pool.provisioning is Provisioning.THIN,
            enforce_multipath=enforce_multipath,
        )

    def TerminateConnection(
        self, request: export_pb2.TerminateConnectionRequest, context: grpc.ServicerContext
    ) -> export_pb2.TerminateConnectionResponse:
        whose = request.WhichOneof("whose")
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        if whose == "attachment_id":
            violations.attachment_id("attachment_id", request.attachment_id)
        elif whose == "connector":
            violations.connector("connector", request.connector)
        else:
            violations.check(
                request.force, "attachment_id", "is needed, or connector, or force for all"
            )
        violations.raise_if_any()
        done = self._connections.terminate(
            request.volume_id,
            request.attachment_id,
            request.connector.initiator.lower(),
            request.refuse_if_logged_in,
            deadline_of(context),
        )
        return export_pb2.TerminateConnectionResponse(
            shared=bool(done.remaining_attachment_ids),
            remaining_attachment_ids=sorted(done.remaining_attachment_ids),
            sessions_closed=done.sessions_closed,
        )

    def GetConnection(
        self, request: export_pb2.GetConnectionRequest, context: grpc.ServicerContext
    ) -> export_pb2.Connection:
        violations = Violations()
        violations.uuid("volume_id", request.volume_id)
        violations.attachment_id("attachment_id", request.attachment_id)
        violations.raise_if_any()
        self._catalog.volume(request.volume_id)
        connection = self._catalog.connection(request.volume_id, request.attachment_id)
        return connection_message(connection, self._observations.now(connection), self._catalog)

    def ListConnections(
        self, request: export_pb2.ListConnectionsRequest, context: grpc.ServicerContext
    ) -> export_pb2.ListConnectionsResponse:
        _check_page(request.page_size, request.page_token, request.volume_id)
        if request.volume_id:
            self._catalog.volume(request.volume_id)
            wanted = self._catalog.connections(request.volume_id)
        else:
            wanted = self._catalog.all_connections()
        shown, token = page(
            wanted,
            lambda connection: f"{connection.volume_id}/{connection.attachment_id}",
            request.page_size,
            request.page_token,
        )
        return export_pb2.ListConnectionsResponse(
            connections=[
                connection_message(one, self._observations.last(one), self._catalog)
                for one in shown
            ],
            next_page_token=token,
        )

    def ListSessions(
        self, request: export_pb2.ListSessionsRequest, context: grpc.ServicerContext
    ) -> export_pb2.ListSessionsResponse:
        _check_page(request.page_size, request.page_token, request.volume_id)
        if request.volume_id:
            self._catalog.volume(request.volume_id)
        volume_ids = [
            export.volume_id
            for export in self._catalog.exports()
            if request.volume_id in ("", export.volume_id)
        ]
        # Pages are of volumes, so that a page never reads more of them than it shows.
        shown, token = page(volume_ids, str, request.page_size, request.page_token)
        return export_pb2.ListSessionsResponse(
            sessions=[
                self._session_message(volume_id, session)
                for volume_id in shown
                for session in self._observations.sessions(volume_id)
            ],
            next_page_token=token,
        )

    def _session_message(self, volume_id: str, session: Session) -> export_pb2.Session:
        return export_pb2.Session(
            volume_id=volume_id,
            initiator=session.initiator,
            attachment_ids=[
                connection.attachment_id
                for connection in self._catalog.connections(volume_id)
                if connection.initiator == session.initiator
            ],
            session_id=session.session_id,
            state=session.state,
            peer_addresses=session.peer_addresses,
        )


def _check_volume_id(volume_id: str) -> None:
    violations = Violations()
    violations.uuid("volume_id", volume_id)
    violations.raise_if_any()


def _check_page(page_size: int, page_token: str, volume_id: str = "") -> None:
    violations = Violations()
    violations.page(page_size, page_token)
    if volume_id:
        violations.uuid("volume_id", volume_id)
    violations.raise_if_any()
