"""A storage host as the tests see it: simulated in this process, or real in the lab."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol
from unittest.mock import patch

import grpc
from targetd_driver import Endpoint, TargetdDriver, TlsFiles

from lab.errors import LoginRefused
from lab.health import status_now
from lab.initiator import Initiator
from lab.initiator import properties_of as properties_of
from lab.lab import Lab
from lab.service import TargetdService
from lab.storage import StorageHost
from targetd import daemon, tls_authority
from targetd.api.v1 import (
    export_pb2,
    export_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
)
from targetd.config import Config, TlsConfig
from targetd.daemon import OPERATION_GRACE_SECONDS, Daemon
from targetd.engines.simulated import SimulatedHost, SimulatedLio, SimulatedLvm
from targetd.model import PoolConfig, WipePolicy
from targetd.roles import Role

MEBIBYTE = 1 << 20
POOLS = (
    PoolConfig("thick", "storage"),
    PoolConfig("thin", "storage", "thin", WipePolicy.NONE),
)
SIMULATED_POOL_BYTES = 3 << 30
INITIATORS = ("a", "b")
DPKG_SECONDS_MAX = 300.0


class Backing(Protocol):
    """What differs between the hosts: how initiators log in, and what is really there."""

    endpoint: Endpoint

    def endpoint_for(self, role: Role) -> Endpoint:
        """Over TCP, with a certificate of that role."""

    def initiator(self, host: str) -> str: ...

    def log_in(self, host: str, properties: Mapping[str, Any]) -> bool: ...

    def log_out(self, host: str, properties: Mapping[str, Any]) -> None: ...

    def kernel(self) -> dict[str, set[str]]:
        """Target names, each with the initiators that have an ACL."""

    def volumes(self) -> set[str]:
        """The names of what LVM holds beside the thin pool."""

    def make_foreign(self, lv_name: str, size_bytes: int, pool: str = "thick") -> None:
        """A logical volume of somebody else's, in the volume group."""

    def remove_foreign(self, lv_name: str) -> None: ...

    def restart(self) -> None:
        """Kill the daemon and start it again."""


class Host:
    """One host with its stubs, for use by a test."""

    def __init__(self, backing: Backing) -> None:
        self.backing = backing
        self.channel = backing.endpoint.channel()
        self.volumes = volume_pb2_grpc.VolumeServiceStub(self.channel)
        self.exports = export_pb2_grpc.ExportServiceStub(self.channel)
        self.hosts = host_pb2_grpc.HostServiceStub(self.channel)
        self.driver = TargetdDriver(backing.endpoint)

    def close(self) -> None:
        self.driver.close()
        self.channel.close()

    def connector(self, host: str) -> export_pb2.Connector:
        return export_pb2.Connector(initiator=self.backing.initiator(host), host=host)

    def create(
        self, pool: str = "thin", size_bytes: int = 16 * MEBIBYTE, multi_attach: bool = False
    ) -> str:
        volume_id = str(uuid.uuid4())
        self.volumes.CreateVolume(
            volume_pb2.CreateVolumeRequest(
                volume_id=volume_id, pool=pool, size_bytes=size_bytes, multi_attach=multi_attach
            )
        )
        return volume_id

    def attach(
        self,
        volume_id: str,
        host: str = "a",
        attachment_id: str = "",
        access_mode: export_pb2.AccessMode.ValueType = export_pb2.ACCESS_MODE_RW,
    ) -> export_pb2.ConnectionProperties:
        self.exports.CreateExport(export_pb2.CreateExportRequest(volume_id=volume_id))
        answer = self.exports.InitializeConnection(
            export_pb2.InitializeConnectionRequest(
                volume_id=volume_id,
                attachment_id=attachment_id or f"attachment-{host}",
                connector=self.connector(host),
                access_mode=access_mode,
            )
        )
        return answer.properties

    def detach(
        self, volume_id: str, host: str = "a", attachment_id: str = ""
    ) -> export_pb2.TerminateConnectionResponse:
        return self.exports.TerminateConnection(
            export_pb2.TerminateConnectionRequest(
                volume_id=volume_id, attachment_id=attachment_id or f"attachment-{host}"
            )
        )

    def remove_export(self, volume_id: str) -> None:
        self.exports.RemoveExport(export_pb2.RemoveExportRequest(volume_id=volume_id))

    def snapshot(self, volume_id: str, reserve_bytes: int = 0) -> str:
        snapshot_id = str(uuid.uuid4())
        self.volumes.CreateSnapshot(
            volume_pb2.CreateSnapshotRequest(
                snapshot_id=snapshot_id, volume_id=volume_id, reserve_bytes=reserve_bytes
            )
        )
        return snapshot_id

    def wait_available(self, volume_id: str) -> volume_pb2.Volume:
        """Wait until a volume has been filled from its source."""
        volume = self.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=volume_id))
        if volume.operation_id:
            request = host_pb2.WatchOperationRequest(operation_id=volume.operation_id)
            (*_, last) = self.hosts.WatchOperation(request, timeout=60)
            assert last.state == host_pb2.OPERATION_STATE_DONE, last
        return self.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=volume_id))

    def remove_everything(self) -> None:
        for snapshot in self.volumes.ListSnapshots(volume_pb2.ListSnapshotsRequest()).snapshots:
            self.volumes.DeleteSnapshot(
                volume_pb2.DeleteSnapshotRequest(snapshot_id=snapshot.snapshot_id)
            )
        for volume in self.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes:
            volume_id = volume.volume_id
            self.exports.TerminateConnection(
                export_pb2.TerminateConnectionRequest(volume_id=volume_id, force=True)
            )
            self.exports.RemoveExport(export_pb2.RemoveExportRequest(volume_id=volume_id))
            self.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=volume_id))


class SimulatedBacking:
    """A daemon in this process, on simulated engines, behind its real sockets."""

    lio_class = SimulatedLio
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, folder: Path) -> None:
        self.certificates = folder / "tls"
        tls_authority.init(self.certificates)
        tls_authority.issue_server(self.certificates, "server", ["127.0.0.1"])
        self.state_directory = folder / "state"
        self._config = Config(
            pools=POOLS,
            listen="127.0.0.1:0",
            tls=tls_config(self.certificates),
            state_directory=self.state_directory,
            socket=folder / "run" / "targetd.sock",
            portal_addresses=("192.0.2.1",),
            **self.options,
        )
        self.endpoint = Endpoint(f"unix:{self._config.socket}")
        self.socket = self._config.socket
        self.calls_per_client = self._config.calls_per_client
        self._host = SimulatedHost()
        self.lvm = SimulatedLvm(POOLS, self._host, SIMULATED_POOL_BYTES)
        self.lio = self.lio_class(self._host)
        self.daemon = self._started()

    def _started(self) -> Daemon:
        daemon = Daemon(self._config, self.lvm, self.lio)
        daemon.start()
        return daemon

    def endpoint_for(self, role: Role) -> Endpoint:
        files = client_files(self.certificates, f"client-{role}", role)
        return Endpoint(f"127.0.0.1:{self.daemon.port}", files)

    def initiator(self, host: str) -> str:
        return f"iqn.2026-01.org.example.lab:{host}"

    def log_in(self, host: str, properties: Mapping[str, Any]) -> bool:
        return self.lio.log_in(
            properties["target_iqn"],
            self.initiator(host),
            properties["auth_username"],
            properties["auth_password"],
        )

    def log_out(self, host: str, properties: Mapping[str, Any]) -> None:
        self.lio.log_out(properties["target_iqn"], self.initiator(host))

    def kernel(self) -> dict[str, set[str]]:
        return {iqn: set(self.lio.acls(iqn)) for iqn in self.lio.targets()}

    def volumes(self) -> set[str]:
        found = self.lvm.inventory()
        names = {volume.lv_name for volume in found.volumes}
        names |= {snapshot.lv_name for snapshot in found.snapshots}
        names |= {place.partition("/")[2] for place in self.lvm.foreign}
        return names | {f"deleted-{retired.operation_id}" for retired in found.retired}

    def make_foreign(self, lv_name: str, size_bytes: int, pool: str = "thick") -> None:
        self.lvm.foreign[f"storage/{lv_name}"] = ("" if pool == "thick" else pool, size_bytes)

    def remove_foreign(self, lv_name: str) -> None:
        del self.lvm.foreign[f"storage/{lv_name}"]

    def restart(self) -> None:
        # Steps that a test holds do not end before it lets them.
        grace = OPERATION_GRACE_SECONDS if self.lvm.may_step.is_set() else 0.0
        with patch.object(daemon, "OPERATION_GRACE_SECONDS", grace):
            self.daemon.stop()
        self.daemon = self._started()

    def crash(self) -> None:
        """As ``restart``, without waiting for what hangs."""
        with patch.object(daemon, "STOP_GRACE_SECONDS", 0.1):
            self.restart()

    def health(self) -> str:
        with self.endpoint.channel() as channel:
            return status_now(channel)

    def close(self) -> None:
        self.daemon.stop()


def tls_config(folder: Path, name: str = "server") -> TlsConfig:
    return TlsConfig(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")


def client_files(folder: Path, name: str, role: Role) -> TlsFiles:
    """A certificate by the authority in the folder, also one without any role."""
    files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
    certificate, key = tls_authority.open_authority(folder).client(name, role)
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    return files


class RealBacking:
    """targetd under systemd on one machine, with others that attach."""

    def __init__(self, storage: TargetdService, initiators: Mapping[str, Initiator]) -> None:
        self.storage = storage
        self.endpoint = storage.endpoint
        self.initiators = initiators

    def endpoint_for(self, role: Role) -> Endpoint:
        return self.storage.endpoint_for(role)

    def initiator(self, host: str) -> str:
        return self.initiators[host].name

    def log_in(self, host: str, properties: Mapping[str, Any]) -> bool:
        try:
            self.initiators[host].log_in(properties)
        except LoginRefused:
            return False
        return True

    def log_out(self, host: str, properties: Mapping[str, Any]) -> None:
        self.initiators[host].drop(properties["target_iqn"])

    def kernel(self) -> dict[str, set[str]]:
        iscsi = "/sys/kernel/config/target/iscsi"
        found = self.storage.node.run(
            ["find", iscsi, "-mindepth", "1", "-maxdepth", "4", "-type", "d"]
        ).stdout
        paths = [line.removeprefix(f"{iscsi}/").split("/") for line in found.splitlines()]
        targets: dict[str, set[str]] = {
            path[0]: set() for path in paths if path[0].startswith("iqn.")
        }
        for path in paths:
            if len(path) == 4 and path[2] == "acls":
                targets[path[0]].add(path[3])
        return targets

    def volumes(self) -> set[str]:
        listed = self.storage.node.run(["lvm", "lvs", "--noheadings", "-o", "lv_name"]).stdout
        return set(listed.split()) - {"thin"}

    def make_foreign(self, lv_name: str, size_bytes: int, pool: str = "thick") -> None:
        size = ["-V", f"{size_bytes}b", "--thinpool", "thin"]
        if pool == "thick":
            size = ["-L", f"{size_bytes}b"]
        self.storage.node.run(["lvm", "lvcreate", "-y", "-n", lv_name, *size, "storage"])

    def remove_foreign(self, lv_name: str) -> None:
        self.storage.node.run(["lvm", "lvremove", "-y", f"storage/{lv_name}"])

    def restart(self) -> None:
        self.storage.kill_and_wait()

    def recover(self) -> None:
        """After a test that failed anywhere: the next one finds a daemon, and no session."""
        self.storage.start()
        for initiator in self.initiators.values():
            for target in initiator.sessions():
                initiator.drop(target)

    def close(self) -> None:
        self.storage.close()


class LabBacking(RealBacking):
    """On nodes of the lab: from this checkout."""

    storage: StorageHost

    def __init__(self, lab: Lab) -> None:
        storage = StorageHost(lab["storage"])
        super().__init__(storage, {name: Initiator(lab[name]) for name in INITIATORS})
        storage.prepare_disks()
        storage.install()
        storage.start()
        for initiator in self.initiators.values():
            initiator.start()


class InstalledBacking(RealBacking):
    """targetd from a package; ``later`` is where a later one lies on the storage host."""

    def __init__(
        self, storage: TargetdService, initiators: Mapping[str, Initiator], later: str
    ) -> None:
        super().__init__(storage, initiators)
        self.later = later

    def dpkg(self, *arguments: str) -> str:
        """Returns what is said of it to who runs it."""
        done = self.storage.node.run(
            ["dpkg", *arguments], timeout_seconds=DPKG_SECONDS_MAX, check=False
        )
        assert done.status == 0, done.stdout + done.stderr
        return done.stderr

    def installed_version(self) -> str:
        argv = ["dpkg-query", "--show", "--showformat=${Version}", "targetd"]
        return self.storage.node.run(argv).stdout


@contextmanager
def refused_with(code: grpc.StatusCode) -> Iterator[list[grpc.RpcError]]:
    """The block must raise a gRPC error of that code; it is in the list afterwards."""
    caught: list[grpc.RpcError] = []
    try:
        yield caught
    except grpc.RpcError as error:
        caught.append(error)
    if not caught:
        raise AssertionError(f"nothing was refused; {code.name} was expected")
    found = caught[0].code()
    if found is not code:
        raise AssertionError(f"refused with {found.name}: {caught[0].details()}")
