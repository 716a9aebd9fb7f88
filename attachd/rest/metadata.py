"""``metadata`` of volumes and of snapshots, as a whole and key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attachd.errors import Invalid, NotFound
from attachd.model import Caller, Snapshot, Volume
from attachd.rest import bodies
from attachd.rest.request import Answer, Request


class Things(Protocol):
    """What both services have."""

    def get(self, caller: Caller, id_: str, /) -> Volume | Snapshot: ...

    def update(
        self, caller: Caller, id_: str, /, *, metadata: Mapping[str, str] | None = None
    ) -> Volume | Snapshot: ...


class Metadata:
    """The endpoints for one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def _things(self, request: Request) -> Things:
        return request.services.snapshots if self._kind == "snapshot" else request.services.volumes

    def _get(self, request: Request) -> Mapping[str, str]:
        return self._things(request).get(request.caller, request.id).metadata

    def _set(self, request: Request, metadata: Mapping[str, str]) -> Mapping[str, str]:
        changed = self._things(request).update(request.caller, request.id, metadata=metadata)
        return changed.metadata

    def show(self, request: Request) -> Answer:
        return Answer(200, {"metadata": dict(self._get(request))})

    def add(self, request: Request) -> Answer:
        """Beside what is there; the same key again has another value then."""
        added = request.body(bodies.MetadataBody).metadata
        return Answer(200, {"metadata": dict(self._set(request, {**self._get(request), **added}))})

    def replace(self, request: Request) -> Answer:
        wanted = request.body(bodies.MetadataBody).metadata
        return Answer(200, {"metadata": dict(self._set(request, wanted))})

    def show_one(self, request: Request) -> Answer:
        key, found = self._one(request)
        return Answer(200, {"meta": {key: found[key]}})

    def set_one(self, request: Request) -> Answer:
        key = request.ids[1]
        meta = request.body(bodies.MetaBody).meta
        if set(meta) != {key}:
            raise Invalid(f"meta: must have the one key of the address, {key}.")
        self._set(request, {**self._get(request), **meta})
        return Answer(200, {"meta": meta})

    def delete_one(self, request: Request) -> Answer:
        key, found = self._one(request)
        self._set(request, {name: found[name] for name in found if name != key})
        return Answer(200)

    def _one(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """The key of the address, which is there, and all there are. Raises NotFound."""
        found = self._get(request)
        key = request.ids[1]
        if key not in found:
            raise NotFound(f"Metadata of {self._kind} {request.id}", key)
        return key, found


VOLUMES = Metadata("volume")
SNAPSHOTS = Metadata("snapshot")
