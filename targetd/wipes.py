"""Removing volumes and snapshots for good, and their data by the pool's policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from targetd.engines.interface import LvmEngine, Origin, RetiredVolume
from targetd.failpoints import failpoint
from targetd.model import OperationKind, PoolConfig, Provisioning, Snapshot, WipePolicy
from targetd.operations import Operations, Work, new_id

UUID_LENGTH = 36


class Wipes:
    def __init__(self, lvm: LvmEngine, operations: Operations, pools: Sequence[PoolConfig]) -> None:
        self._lvm = lvm
        self._operations = operations
        self.configure(pools)

    def configure(self, pools: Sequence[PoolConfig]) -> None:
        """What is deleted from now on is wiped by these policies."""
        self._policies = {pool.name: pool.wipe for pool in pools}

    def remove(self, origin: Origin) -> str:
        """Remove it; returns the id of the wipe that goes on, or an empty text.

        Its name is free at once. Raises EngineError or a kind of it.
        """
        if not self._needs_wipe(origin):
            self._lvm.remove(origin)
            return ""
        named = origin.snapshot_id if isinstance(origin, Snapshot) else origin.volume_id
        retired = self._lvm.retire(origin, new_id(named))
        failpoint("volume-retired")
        self.begin(retired)
        return retired.operation_id

    def begin(self, retired: RetiredVolume) -> None:
        policy = self._policies[retired.pool.name]
        retired = replace(retired, pool=replace(retired.pool, wipe=policy))

        def finish() -> None:
            failpoint("volume-wiped")
            self._lvm.remove_retired(retired)

        self._operations.begin(
            Work(
                kind=OperationKind.WIPE,
                operation_id=retired.operation_id,
                volume_id=retired.operation_id[:UUID_LENGTH],
                total_bytes=retired.size_bytes,
                steps=lambda start, step: self._lvm.wipe(retired, start, step),
                finish=finish,
            )
        )

    def _needs_wipe(self, origin: Origin) -> bool:
        if isinstance(origin, Snapshot) and origin.pool.provisioning is Provisioning.THIN:
            # It shares its blocks with its volume; LVM drops its references to them.
            return False
        return self._policies[origin.pool.name] is not WipePolicy.NONE
