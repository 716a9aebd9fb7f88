"""A seeded random load on a storage host, and a ledger of what was acknowledged."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import grpc

from lab.agreement import RPC_SECONDS, Client
from lab.errors import LabError
from lab.ledger import BLOCK, Attachment, Ledger, VolumeState, digest
from lab.storage import GROUP, MEBIBYTE, StorageHost
from targetd.api.v1 import export_pb2, volume_pb2

INITIATORS = ("iqn.2026-01.org.example.load:a", "iqn.2026-01.org.example.load:b")
# Two for the first initiator, which then share its ACL.
ATTACHMENTS = {"a-1": INITIATORS[0], "a-2": INITIATORS[0], "b-1": INITIATORS[1]}
VOLUMES_EACH = 2
# Of LVM's extents.
GRAIN_BYTES = 4 * MEBIBYTE
SIZE_MAX_BYTES = 16 * MEBIBYTE
REUSE_OF_ID = 0.2

Answer = TypeVar("Answer")
Done = Callable[[], None]


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
        known = {*self._own, *self._gone}
        self._own = [one for one in sorted(known) if one in self._ledger.volumes]
        self._gone = [one for one in sorted(known) if one not in self._ledger.volumes]

    def step(self, client: Client) -> None:
        wanted = self._rng.randrange(VOLUMES_EACH)
        if wanted >= len(self._own):
            self._create(client)
            return
        volume_id = self._own[wanted]
        state = self._ledger.volumes[volume_id]
        doing = self._rng.choices(*zip(*self._choices(state), strict=True))[0]
        doing(client, volume_id, state)

    def _choices(
        self, state: VolumeState
    ) -> list[tuple[Callable[[Client, str, VolumeState], None], float]]:
        """What may be done with a volume now, and how gladly."""
        choices: list[tuple[Callable[[Client, str, VolumeState], None], float]] = [
            (self._write, 1.0)
        ]
        if state.size_bytes < SIZE_MAX_BYTES:
            choices.append((self._extend, 0.3))
        if not state.exported:
            return [*choices, (self._export, 4.0), (self._delete, 1.5)]
        if self._free(state):
            choices.append((self._connect, 4.0))
        if state.attachments:
            return [*choices, (self._connect_again, 0.5), (self._disconnect, 3.0)]
        return [*choices, (self._unexport, 2.0)]

    def _do(
        self,
        volume_id: str,
        what: str,
        after: VolumeState | None,
        call: Callable[[], Answer],
        final: Callable[[Answer], VolumeState | None] | None = None,
    ) -> None:
        """``final`` puts what only the answer tells into the state afterwards."""
        self._ledger.begin(volume_id, what, after)
        answer = call()
        self._ledger.acknowledge(volume_id, final(answer) if final else after)
        self._marked()

    # Volumes

    def _create(self, client: Client) -> None:
        volume_id = self._new_id()
        pool = self._rng.choice(("thin", "thick"))
        size = GRAIN_BYTES * self._rng.randint(1, 3)
        multi_attach = self._rng.random() < 0.5
        request = volume_pb2.CreateVolumeRequest(
            volume_id=volume_id, pool=pool, size_bytes=size, multi_attach=multi_attach
        )
        self._own.append(volume_id)
        self._do(
            volume_id,
            f"create {pool}",
            VolumeState(pool, size, multi_attach),
            lambda: client.volumes.CreateVolume(request, timeout=RPC_SECONDS),
        )

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
