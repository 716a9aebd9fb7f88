"""``metadata`` of volumes and of snapshots, as a whole and key by key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from attachd.errors import Invalid, NotFound
from attachd.model import Caller, Snapshot, Volume
from attachd.rest import bodies
from attachd.rest.request import Answer, Request

Change = Callable[[Mapping[str, str]], Mapping[str, str]]


class Things(Protocol):
    """What both services have."""

    def get(self, caller: Caller, id_: str, /) -> Volume | Snapshot: ...

    def change_metadata(self, caller: Caller, id_: str, change: Change, /) -> Mapping[str, str]: ...


class Metadata:
    """The endpoints for one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def _things(self, request: Request) -> Things:
        return request.services.snapshots if self._kind == "snapshot" else request.services.volumes

    def _get(self, request: Request) -> Mapping[str, str]:
        return self._things(request).get(request.caller, request.id).metadata

    def _change(self, request: Request, change: Change) -> dict[str, str]:
        """Two who do so at once have both done it. Returns all there are then."""
        things = self._things(request)
        return dict(things.change_metadata(request.caller, request.id, change))

    def show(self, request: Request) -> Answer:
        return Answer(200, {"metadata": dict(self._get(request))})

    def add(self, request: Request) -> Answer:
        """Beside what is there; the same key again has another value then."""
        added = request.body(bodies.MetadataBody).metadata
        return Answer(200, {"metadata": self._change(request, lambda found: {**found, **added})})

    def replace(self, request: Request) -> Answer:
        wanted = request.body(bodies.MetadataBody).metadata
        return Answer(200, {"metadata": self._change(request, lambda _: wanted)})

    def show_one(self, request: Request) -> Answer:
        key, found = request.ids[1], self._get(request)
        self._require(request, key, found)
        return Answer(200, {"meta": {key: found[key]}})

    def set_one(self, request: Request) -> Answer:
        key = request.ids[1]
        meta = request.body(bodies.MetaBody).meta
        if set(meta) != {key}:
            raise Invalid(f"meta: must have the one key of the address, {key}.")
        self._change(request, lambda found: {**found, **meta})
        return Answer(200, {"meta": meta})

    def delete_one(self, request: Request) -> Answer:
        key = request.ids[1]

        def without(found: Mapping[str, str]) -> Mapping[str, str]:
            self._require(request, key, found)
            return {name: found[name] for name in found if name != key}

        self._change(request, without)
        return Answer(200)

    def _require(self, request: Request, key: str, found: Mapping[str, str]) -> None:
        """Raises NotFound."""
        if key not in found:
            raise NotFound(f"Metadata of {self._kind} {request.id}", key)


VOLUMES = Metadata("volume")
SNAPSHOTS = Metadata("snapshot")
