"""attachd as it is served, on simulated storage hosts, and a client that speaks plain HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from attachd.config import Config, IdentityKind
from attachd.model import HostSpec
from attachd.service import Service
from tests.attachd.hosts import storage
from tests.hosts import SimulatedBacking

LATEST = "3.71"
PROJECT = "project"
NOAUTH = Config(
    listen="127.0.0.1:0", socket=None, identity=IdentityKind.NOAUTH, host_timeout_seconds=10
)
INITIATORS = {name: f"iqn.2026-01.org.example.lab:{name}" for name in "abc"}


def connector(host: str = "a") -> dict[str, Any]:
    """As os-brick gathers it, with much that nobody needs."""
    return {
        "initiator": INITIATORS[host],
        "host": host,
        "ip": "192.0.2.10",
        "platform": "x86_64",
        "os_type": "linux",
        "multipath": False,
        "do_local_attach": False,
        "system uuid": "0e2e0a3c-2a0e-4c0e-8e5a-0c5d4b7e5f10",
    }


@dataclass(frozen=True)
class Api:
    """Somebody who calls, in one microversion."""

    client: httpx.Client
    version: str = LATEST
    token: str = f"user:{PROJECT}"
    prefix: str = f"/v3/{PROJECT}"

    def at(self, version: str) -> Api:
        return replace(self, version=version)

    def by(self, token: str, prefix: str = "/v3") -> Api:
        return replace(self, token=token, prefix=prefix)

    def ask(self, method: str, path: str, body: Any = None, **params: Any) -> httpx.Response:
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": f"volume {self.version}"}
        return self.client.request(
            method, f"{self.prefix}/{path}", json=body, params=params or None, headers=headers
        )

    def get(self, path: str, **params: Any) -> Any:
        return good(self.ask("GET", path, **params))

    def post(self, path: str, body: Any) -> Any:
        return good(self.ask("POST", path, body))

    def put(self, path: str, body: Any) -> Any:
        return good(self.ask("PUT", path, body))

    def delete(self, path: str, **params: Any) -> Any:
        return good(self.ask("DELETE", path, **params))

    # What most tests begin with

    def volume(self, **wanted: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.post("volumes", {"volume": {"size": 1, **wanted}})["volume"]
        return found

    def act(self, volume_id: str, action: str, content: Any = None) -> Any:
        return self.post(f"volumes/{volume_id}/action", {action: content})

    def status(self, volume_id: str) -> str:
        return str(self.get(f"volumes/{volume_id}")["volume"]["status"])

    def attachment(self, volume_id: str, host: str | None = "a", **more: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"volume_uuid": volume_id, "instance_uuid": str(uuid.uuid4())}
        if host is not None:
            body["connector"] = connector(host)
        made = self.post("attachments", {"attachment": {**body, **more}})
        found: dict[str, Any] = made["attachment"]
        return found


def good(response: httpx.Response) -> Any:
    assert response.is_success, response.text
    return response.json() if response.content else None


def refused(response: httpx.Response, code: int, name: str) -> str:
    """The message; the answer is in the field's shape."""
    assert response.status_code == code, response.text
    (found,) = response.json().items()
    assert found[0] == name
    assert found[1]["code"] == code
    assert set(found[1]) == {"code", "message"}
    return str(found[1]["message"])


@dataclass(frozen=True)
class Served:
    service: Service
    backings: Mapping[str, SimulatedBacking]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.server.port}"

    @property
    def backing(self) -> SimulatedBacking:
        return self.backings["one"]

    @contextmanager
    def api(self) -> Iterator[Api]:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            yield Api(client)


@contextmanager
def served(config: Config = NOAUTH, hosts: tuple[str, ...] = ("one",)) -> Iterator[Served]:
    with storage(*hosts) as backings, TemporaryDirectory(dir="/dev/shm") as folder:
        service = Service(replace(config, state_directory=Path(folder)))
        try:
            for name, backing in backings.items():
                service.site.hosts.add(HostSpec(name, backing.endpoint.address))
            service.start()
            yield Served(service, backings, Path(folder))
        finally:
            service.stop()
