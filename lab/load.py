"""A seeded random load on a storage host, and a ledger of what was acknowledged."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import grpc

from lab.agreement import RPC_SECONDS, Client
from lab.errors import LabError
from lab.ledger import (
    BLOCK,
    Attachment,
    Ledger,
    ReleasedState,
    SnapshotState,
    State,
    VolumeState,
    digest,
)
from lab.storage import GROUP, MEBIBYTE, RELEASED_PREFIX, StorageHost
from targetd.api.v1 import export_pb2, volume_pb2

INITIATORS = ("iqn.2026-01.org.example.load:a", "iqn.2026-01.org.example.load:b")
# Two for the first initiator, which then share its ACL.
ATTACHMENTS = {"a-1": INITIATORS[0], "a-2": INITIATORS[0], "b-1": INITIATORS[1]}
VOLUMES_EACH = 2
# Of LVM's extents.
GRAIN_BYTES = 4 * MEBIBYTE
SIZE_MAX_BYTES = 16 * MEBIBYTE
REUSE_OF_ID = 0.2
FROM_SOURCE = 0.6
FILLED_POLL_SECONDS = 0.05

Answer = TypeVar("Answer")
Done = Callable[[], None]
Doing = Callable[[Client, str, VolumeState], None]


class Worker:
    """Makes one call after the other, on volumes that are its own.

    ``marked`` is called after each acknowledgement, before the next call.
    """

    def __init__(
        self,
        name: str,
        rng: random.Random,
        storage: StorageHost,
        ledger: Ledger,
        marked: Done = lambda: None,
    ) -> None:
        self.name = name
        self._rng = rng
        self._storage = storage
        self._ledger = ledger
        self._marked = marked
        # Kept over power cuts: with what is gone, an id may come back.
        self._own: list[str] = []
        self._snapshots: list[str] = []
        self._gone: list[str] = []

    def run(self, client: Client, stop: threading.Event) -> None:
        """Until told to stop. Raises what went wrong before that."""
        while not stop.is_set():
            try:
                self.step(client)
            except (grpc.RpcError, LabError, ValueError):
                # ValueError is what a closed channel says to a new call.
                if not stop.is_set():
                    raise
                return

    def settle(self) -> None:
        """After a power cut: what is mine and still there, by the ledger."""
        known = sorted({*self._own, *self._snapshots, *self._gone})
        self._snapshots = [one for one in known if one in self._ledger.snapshots]
        self._own = [
            one for one in known if one in self._ledger.states and one not in self._snapshots
        ]
        self._gone = [one for one in known if one not in self._ledger.states]

    def step(self, client: Client) -> None:
        for volume_id in self._own:
            state = self._ledger.states[volume_id]
            if isinstance(state, VolumeState) and state.filling:
                self._while_filling(client, volume_id, state)
                return
        wanted = self._rng.randrange(VOLUMES_EACH)
        if wanted >= len(self._own):
            self._create(client)
            return
        volume_id = self._own[wanted]
        state = self._ledger.states[volume_id]
        if isinstance(state, VolumeState):
            self._any_of(self._choices(volume_id, state))(client, volume_id, state)
        elif isinstance(state, ReleasedState):
            self._adopt(client, volume_id, state)

    def _any_of(self, choices: list[tuple[Doing, float]]) -> Doing:
        doings, weights = zip(*choices, strict=True)
        doing: Doing = self._rng.choices(doings, weights)[0]
        return doing

    def _choices(self, volume_id: str, state: VolumeState) -> list[tuple[Doing, float]]:
        """What may be done with a volume now, and how gladly."""
        snapshot = bool(self._snapshots_of(volume_id))
        choices: list[tuple[Doing, float]] = [
            (self._write, 1.0),
            (self._delete_snapshot if snapshot else self._snapshot, 1.5),
        ]
        # A thick volume cannot grow while it has snapshots.
        if state.size_bytes < SIZE_MAX_BYTES and not (snapshot and state.pool == "thick"):
            choices.append((self._extend, 0.3))
        if not state.exported:
            if not snapshot:
                choices += [(self._delete, 1.5), (self._release, 0.5)]
            return [*choices, (self._export, 4.0)]
        if self._free(state):
            choices.append((self._connect, 4.0))
        if state.attachments:
            return [*choices, (self._connect_again, 0.5), (self._disconnect, 3.0)]
        return [*choices, (self._unexport, 2.0)]

    def _while_filling(self, client: Client, volume_id: str, state: VolumeState) -> None:
        """Its source must not go or grow meanwhile; writes to it must not be copied."""
        choices: list[tuple[Doing, float]] = [(self._wait_filled, 2.0), (self._delete, 0.5)]
        doing = self._any_of([*choices, (self._write_another, 1.0)])
        doing(client, volume_id, state)

    def _write_another(self, client: Client, volume_id: str, state: VolumeState) -> None:
        for other_id in self._own:
            other = self._ledger.states[other_id]
            if isinstance(other, VolumeState) and not other.filling:
                self._write(client, other_id, other)
                return
        self._wait_filled(client, volume_id, state)

    def _do(
        self,
        item_id: str,
        what: str,
        after: State | None,
        call: Callable[[], Answer],
        final: Callable[[Answer], State | None] | None = None,
    ) -> None:
        """``final`` puts what only the answer tells into the state afterwards."""
        self._ledger.begin(item_id, what, after)
        answer = call()
        self._ledger.acknowledge(item_id, final(answer) if final else after)
        self._marked()

    # Volumes

    def _create(self, client: Client) -> None:
        source_id = self._source() if self._rng.random() < FROM_SOURCE else ""
        source = self._ledger.states.get(source_id)
        volume_id = self._new_id()
        state = VolumeState(
            pool=self._rng.choice(("thin", "thick")),
            size_bytes=GRAIN_BYTES * self._rng.randint(1, 3),
            multi_attach=self._rng.random() < 0.5,
        )
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id, pool=state.pool, multi_attach=state.multi_attach
        )
        what = f"create {state.pool}"
        if source is not None:
            # One that needs no copy is full before anybody asks.
            how = "clone" if source.pool == state.pool == "thin" else "copy"
            what = f"{how} {source.pool} to {state.pool}"
            state = replace(
                state,
                size_bytes=max(source.size_bytes, state.size_bytes),
                content=source.content,
                filling=how == "copy",
            )
        if isinstance(source, SnapshotState):
            request.source_snapshot_id = source_id
            state = replace(state, source=f"snapshot {source_id}")
        elif source is not None:
            request.source_volume_id = source_id
            state = replace(state, source=f"volume {source_id}")
        request.size_bytes = state.size_bytes
        self._own.append(volume_id)
        self._do(
            volume_id,
            what,
            state,
            lambda: client.volumes.CreateVolume(request, timeout=RPC_SECONDS),
        )

    def _source(self) -> str:
        """A volume or snapshot of mine, if there is one."""
        volumes = [one for one in self._own if isinstance(self._ledger.states[one], VolumeState)]
        known = [*volumes, *self._snapshots]
        return self._rng.choice(known) if known else ""

    def _wait_filled(self, client: Client, volume_id: str, state: VolumeState) -> None:
        request = volume_pb2.GetVolumeRequest(volume_id=volume_id)

        def call() -> None:
            end = time.monotonic() + RPC_SECONDS
            while (
                client.volumes.GetVolume(request, timeout=RPC_SECONDS).state
                == volume_pb2.VOLUME_STATE_COPYING
            ):
                if time.monotonic() > end:
                    raise LabError(f"{volume_id} is not filled in {RPC_SECONDS:g} s")
                time.sleep(FILLED_POLL_SECONDS)

        self._do(volume_id, "fill", replace(state, filling=False), call)

    def _new_id(self) -> str:
        if self._gone and self._rng.random() < REUSE_OF_ID:
            return self._gone.pop(self._rng.randrange(len(self._gone)))
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _extend(self, client: Client, volume_id: str, state: VolumeState) -> None:
        size = state.size_bytes + GRAIN_BYTES
        request = volume_pb2.ExtendVolumeRequest(volume_id=volume_id, size_bytes=size)
        self._do(
            volume_id,
            "extend",
            replace(state, size_bytes=size),
            lambda: client.volumes.ExtendVolume(request, timeout=RPC_SECONDS),
        )

    def _delete(self, client: Client, volume_id: str, state: VolumeState) -> None:
        request = volume_pb2.DeleteVolumeRequest(volume_id=volume_id)
        self._own.remove(volume_id)
        self._gone.append(volume_id)
        self._do(
            volume_id,
            f"delete {state.pool}",
            None,
            lambda: client.volumes.DeleteVolume(request, timeout=RPC_SECONDS),
        )

    def _write(self, client: Client, volume_id: str, state: VolumeState) -> None:
        """Inside the node, in one sector: half of it is never written."""
        content = self._rng.randbytes(BLOCK)
        path = f"/dev/{GROUP}/volume-{volume_id}"
        argv = ["dd", f"of={path}", f"bs={BLOCK}", "count=1", "oflag=direct"]
        self._do(
            volume_id,
            "write",
            replace(state, content=digest(content)),
            lambda: self._storage.node.run([*argv, "conv=notrunc,fsync"], stdin=content),
        )

    # Snapshots

    def _snapshots_of(self, volume_id: str) -> list[str]:
        found = {one: self._ledger.states[one] for one in self._snapshots}
        return [
            one
            for one, state in found.items()
            if isinstance(state, SnapshotState) and state.volume_id == volume_id
        ]

    def _snapshot(self, client: Client, volume_id: str, state: VolumeState) -> None:
        snapshot_id = self._new_id()
        request = volume_pb2.CreateSnapshotRequest(snapshot_id=snapshot_id, volume_id=volume_id)
        self._snapshots.append(snapshot_id)
        self._do(
            snapshot_id,
            f"snapshot {state.pool}",
            SnapshotState(volume_id, state.pool, state.size_bytes, state.content),
            lambda: client.volumes.CreateSnapshot(request, timeout=RPC_SECONDS),
        )

    def _delete_snapshot(self, client: Client, volume_id: str, state: VolumeState) -> None:
        (snapshot_id,) = self._snapshots_of(volume_id)
        request = volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
        self._snapshots.remove(snapshot_id)
        self._gone.append(snapshot_id)
        self._do(
            snapshot_id,
            f"delete snapshot {state.pool}",
            None,
            lambda: client.volumes.DeleteSnapshot(request, timeout=RPC_SECONDS),
        )

    # Letting go, taking over again

    def _release(self, client: Client, volume_id: str, state: VolumeState) -> None:
        request = volume_pb2.ReleaseVolumeRequest(
            volume_id=volume_id, lv_name=f"{RELEASED_PREFIX}{volume_id}"
        )
        self._do(
            volume_id,
            f"release {state.pool}",
            ReleasedState(state.pool, state.size_bytes, state.content),
            lambda: client.volumes.ReleaseVolume(request, timeout=RPC_SECONDS),
        )

    def _adopt(self, client: Client, volume_id: str, state: ReleasedState) -> None:
        multi_attach = self._rng.random() < 0.5
        request = volume_pb2.AdoptVolumeRequest(
            volume_id=volume_id,
            pool=state.pool,
            lv_name=f"{RELEASED_PREFIX}{volume_id}",
            multi_attach=multi_attach,
        )
        self._do(
            volume_id,
            f"adopt {state.pool}",
            VolumeState(state.pool, state.size_bytes, multi_attach, state.content),
            lambda: client.volumes.AdoptVolume(request, timeout=RPC_SECONDS),
        )

    # Exports and connections

    def _export(self, client: Client, volume_id: str, state: VolumeState) -> None:
        request = export_pb2.CreateExportRequest(volume_id=volume_id)
        self._do(
            volume_id,
            "export",
            replace(state, exported=True),
            lambda: client.exports.CreateExport(request, timeout=RPC_SECONDS),
        )

    def _unexport(self, client: Client, volume_id: str, state: VolumeState) -> None:
        request = export_pb2.RemoveExportRequest(volume_id=volume_id)
        self._do(
            volume_id,
            "remove export",
            replace(state, exported=False),
            lambda: client.exports.RemoveExport(request, timeout=RPC_SECONDS),
        )

    @staticmethod
    def _free(state: VolumeState) -> list[str]:
        """The attachments that the rules of sharing allow beside those there are."""
        taken = {one.attachment_id for one in state.attachments}
        initiators = {one.initiator for one in state.attachments}
        return [
            attachment_id
            for attachment_id, initiator in ATTACHMENTS.items()
            if attachment_id not in taken and (state.multi_attach or not initiators - {initiator})
        ]

    def _connect(self, client: Client, volume_id: str, state: VolumeState) -> None:
        attachment_id = self._rng.choice(self._free(state))
        initiator = ATTACHMENTS[attachment_id]
        modes = [one.access_mode for one in state.attachments if one.initiator == initiator]
        mode = modes[0] if modes else self._rng.choice(_MODES)
        asked = Attachment(attachment_id, initiator, mode)
        self._do(
            volume_id,
            "connect",
            state.with_attachment(asked),
            lambda: initialize(client, volume_id, asked),
            lambda given: state.with_attachment(replace(asked, properties=given)),
        )

    def _connect_again(self, client: Client, volume_id: str, state: VolumeState) -> None:
        asked = self._rng.choice(state.attachments)

        def call() -> None:
            if initialize(client, volume_id, asked) != asked.properties:
                raise LabError(f"{volume_id} {asked.attachment_id}: not the same answer again")

        self._do(volume_id, "connect again", state, call)

    def _disconnect(self, client: Client, volume_id: str, state: VolumeState) -> None:
        attachment_id = self._rng.choice(state.attachments).attachment_id
        request = export_pb2.TerminateConnectionRequest(
            volume_id=volume_id, attachment_id=attachment_id
        )
        self._do(
            volume_id,
            "disconnect",
            state.without_attachment(attachment_id),
            lambda: client.exports.TerminateConnection(request, timeout=RPC_SECONDS),
        )


_MODES = (export_pb2.ACCESS_MODE_RW, export_pb2.ACCESS_MODE_RO)


def initialize(
    client: Client, volume_id: str, attachment: Attachment
) -> export_pb2.ConnectionProperties:
    request = export_pb2.InitializeConnectionRequest(
        volume_id=volume_id,
        attachment_id=attachment.attachment_id,
        connector=export_pb2.Connector(initiator=attachment.initiator, host="load"),
        access_mode=attachment.access_mode,
    )
    return client.exports.InitializeConnection(request, timeout=RPC_SECONDS).properties
