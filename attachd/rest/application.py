"""The ASGI application: from a request on the wire to the endpoint, and back.

The event loop only reads and writes; whatever may wait, for the database or a storage
host, is done in threads: one lot for changes and one for reads, so that what there is can be
looked at while every change waits for a storage host that hangs.
"""

from __future__ import annotations

import logging
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from pydantic_core import to_json

from attachd.errors import AttachError, Invalid
from attachd.rest import faults, routes, versions
from attachd.rest.identity import Identity
from attachd.rest.request import Answer, Request
from attachd.rest.workers import Workers
from attachd.site import Services
from targetd import context

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Above the longest connector; the field's own limit.
BODY_BYTES_MAX = 114_688
PARAMS_MAX = 100
HEALTH = "healthcheck"
# The fields of the log that the ids of these are.
SUBJECTS = {"volumes": "volume_id", "attachments": "attachment_id", "snapshots": "snapshot_id"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
JSON = b"application/json"
TEXT = b"text/plain"
# When a client may try again what was refused for the moment.
RETRY_SECONDS = b"1"


class Gone(Exception):
    """The client has gone before it said all."""


class Heard(NamedTuple):
    """A request as it came."""

    id: str
    method: str
    # As it came: nothing in it breaks a line of the log.
    path: str
    # Of the path, decoded; without an empty one at the end.
    parts: list[str]
    query: str
    headers: Mapping[str, str]
    root_url: str

    def subject(self) -> dict[str, str]:
        """What it is about, as far as its path says, for the log."""
        _, behind = routes.of_project(self.parts[1:])
        name = SUBJECTS.get(behind[0]) if len(behind) > 1 else None
        return {name: behind[1]} if name and UUID.fullmatch(behind[1]) else {}


class Reply(NamedTuple):
    status: int
    body: bytes = b""
    media_type: bytes = JSON
    version: int = 0


class Application:
    """``check`` raises AttachError when the service cannot do its work."""

    def __init__(
        self,
        services: Services,
        identity: Identity,
        threads: int,
        check: Callable[[], None],
        public_url: str = "",
    ) -> None:
        self._services = services
        self._identity = identity
        self._check = check
        self._public_url = public_url
        self._changes = Workers("change", threads)
        self._reads = Workers("read", threads)

    def stop(self) -> None:
        """When no request comes any more: wait for those that are being worked on."""
        self._changes.stop()
        self._reads.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        heard = _heard(scope, self._public_url)
        try:
            reply = await self._reply(heard, receive)
        except AttachError as error:
            reply = Reply(error.code, faults.body(error.code, str(error)))
        except Gone:
            log.info("%s %s: the client went away", heard.method, heard.path)
            return
        # The interceptor: whatever nobody foresaw is told by an id, and the log has it.
        except Exception:
            incident = secrets.token_hex(8)
            log.exception(
                "incident %s", incident, extra={"incident": incident, "request_id": heard.id}
            )
            reply = Reply(500, faults.body(500, faults.incident(incident)))
        _tell(heard, reply, scope, started)
        await _send(heard, reply, send)

    async def _reply(self, heard: Heard, receive: Receive) -> Reply:
        if any("\0" in part for part in heard.parts):
            raise Invalid("The address has a NUL character; leave it out.")
        match heard.parts:
            case []:
                return Reply(300, to_json(versions.document(heard.root_url)))
            case ["v3"]:
                return Reply(200, to_json(versions.document(heard.root_url)))
            case [name] if name == HEALTH:
                await self._reads.run(self._check)
                return Reply(200, b"OK", TEXT)
            case ["v3", *rest]:
                return await self._resource(heard, rest, receive)
        raise faults.NotServed("attachd serves the Block Storage API in version 3, under /v3.")

    async def _resource(self, heard: Heard, parts: list[str], receive: Receive) -> Reply:
        version = versions.negotiated(heard.headers.get(versions.HEADER))
        project, behind = routes.of_project(parts)
        route, ids = routes.find(heard.method, behind, version)
        body = await _body(heard, receive)

        def work() -> Reply:
            # Whatever is logged on the way says for which request it was.
            with context.about(request_id=heard.id, **heard.subject()):
                caller = self._identity.caller(heard.headers, project, heard.id)
                request = Request(
                    services=self._services,
                    caller=caller,
                    version=version,
                    ids=ids,
                    params=_params(heard.query),
                    raw_body=body,
                    root_url=heard.root_url,
                    prefix=f"v3/{quote(project)}" if project else "v3",
                    path="/".join(behind),
                )
                with context.about(project_id=caller.project_id):
                    return _answered(route.endpoint(request), version)

        workers = self._reads if heard.method == "GET" else self._changes
        return await workers.run(work)


def _answered(answer: Answer, version: int) -> Reply:
    body = b"" if answer.document is None else to_json(answer.document)
    return Reply(answer.status, body, version=version)


def _heard(scope: Scope, public_url: str) -> Heard:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    # Split before it is decoded: a part may hold a slash.
    path = scope["raw_path"].decode("ascii")
    return Heard(
        id=f"req-{uuid.uuid4()}",
        method=scope["method"],
        path=path,
        parts=[unquote(part) for part in path.split("/") if part],
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
        root_url=public_url or f"{scope['scheme']}://{headers.get('host', 'localhost')}",
    )


def _params(query: str) -> Mapping[str, str]:
    try:
        params = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=PARAMS_MAX))
    except ValueError:
        raise Invalid(f"The query has more than {PARAMS_MAX} parameters.") from None
    if any("\0" in text for pair in params.items() for text in pair):
        raise Invalid("The query has a NUL character; leave it out.")
    return params


async def _body(heard: Heard, receive: Receive) -> bytes:
    """Raises TooLarge, Gone."""
    body = b""
    if heard.method in ("GET", "DELETE"):
        return body
    length = heard.headers.get("content-length", "0")
    # The server has checked that it is a number.
    if int(length) > BODY_BYTES_MAX:
        raise _too_large()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_BYTES_MAX:
            raise _too_large()
    if body and not _is_json(heard.headers.get("content-type", "")):
        raise faults.BadMediaType("The body must be JSON: Content-Type: application/json.")
    return body


def _is_json(content_type: str) -> bool:
    """A browser sends that to another site only when the site has agreed, which attachd never does.

    So that no page somebody looks at can call an attachd that asks for no token.
    """
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _too_large() -> faults.TooLarge:
    return faults.TooLarge(f"The body has more than {BODY_BYTES_MAX} bytes.")


async def _send(heard: Heard, reply: Reply, send: Send) -> None:
    request_id = heard.id.encode()
    headers = [
        (b"x-openstack-request-id", request_id),
        (b"x-compute-request-id", request_id),
        (b"openstack-api-version", f"volume 3.{reply.version}".encode()),
        (b"vary", b"OpenStack-API-Version"),
    ]
    if reply.status != 204:
        headers.append((b"content-length", str(len(reply.body)).encode()))
    if reply.body:
        headers.append((b"content-type", reply.media_type))
    if reply.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="attachd"'))
    if reply.status == 503:
        headers.append((b"retry-after", RETRY_SECONDS))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _tell(heard: Heard, reply: Reply, scope: Scope, started: float) -> None:
    """A line of the access log: no query, no header, no body."""
    level = logging.INFO
    if reply.status >= 500 and reply.status != faults.NotServed.code:
        level = logging.WARNING
    elif heard.path == f"/{HEALTH}":
        level = logging.DEBUG
    client = scope.get("client")
    log.log(
        level,
        "%s %s: %d",
        heard.method,
        heard.path,
        reply.status,
        extra={
            **heard.subject(),
            "request_id": heard.id,
            "method": heard.method,
            "outcome": reply.status,
            "peer": f"{client[0]}:{client[1]}" if client else "unix",
            "duration_ms": f"{(perf_counter() - started) * 1000:.1f}",
        },
    )
