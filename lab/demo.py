"""``python -m lab.demo``: the main job on a storage host of the lab, seen step by step."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from targetd_driver import DriverError, Refused, TargetdDriver

from lab.agreement import Client, targetcli_differs
from lab.errors import LabError, LoginRefused
from lab.initiator import Initiator
from lab.lab import Lab
from lab.machine import Machine
from lab.spec import Spec
from lab.storage import GROUP, ROOT, StorageHost, spec
from lab.writing import Writing
from targetd.api.v1 import (
    export_pb2,
    export_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
)

MEBIBYTE = 1 << 20
WRITER_SECONDS = 12


class StepFailed(Exception):
    """Something was observed that must not be."""


class Demo:
    """Observes what happens and prints it; the first observation that is wrong ends it."""

    def __init__(self, lab: Lab, started: float) -> None:
        self._started = started
        self.storage = StorageHost(lab["storage"])
        self.a, self.b = Initiator(lab["a"]), Initiator(lab["b"])
        self._channel = self.storage.channel()
        self.volumes = volume_pb2_grpc.VolumeServiceStub(self._channel)
        self.exports = export_pb2_grpc.ExportServiceStub(self._channel)
        self.hosts = host_pb2_grpc.HostServiceStub(self._channel)
        self.driver = TargetdDriver(self.storage.endpoint)
        self.thin, self.thick, self.shared = (str(uuid.uuid4()) for _ in range(3))
        self.properties: dict[str, Mapping[str, Any]] = {}

    def close(self) -> None:
        self.driver.close()
        self._channel.close()
        self.storage.close()

    # Saying what is seen

    def step(self, title: str) -> None:
        print(f"\n[{time.monotonic() - self._started:5.1f} s] {title}", flush=True)

    def see(self, ok: bool, text: str) -> None:
        print(f"    {'seen' if ok else 'WRONG'}: {text}", flush=True)
        if not ok:
            raise StepFailed(text)

    def refused(self, what: str, attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except LoginRefused as error:
            reason = re.search(r"\((24 - .*?)\)", str(error))
            self.see(True, f"{what}: refused by the target ({reason[1] if reason else error})")
        except Refused as error:
            self.see(True, f"{what}: refused by the daemon ({error})")
        else:
            self.see(False, f"{what}: was let in")

    # The steps

    def start_daemon(self) -> None:
        self.step("A storage host boots, with a volume group on a disk; targetd starts there")
        node = self.storage.node
        self.see(node.running, f"storage, a and b are up ({node.boot_seconds:.1f} s to LIO ready)")
        self.storage.prepare_disks()
        self.storage.install()
        self.storage.start()
        self.see(self.storage.health() == "SERVING", "healthy over TCP with mutual TLS")
        local = node.run(
            [sys.executable, "-m", "lab.health", "/run/targetd/targetd.sock"],
            environment={"PYTHONPATH": f"{ROOT}:{ROOT}/drivers"},
        )
        self.see(local.stdout.strip() == "SERVING", "healthy over the unix socket on the node")
        host = self.hosts.GetHost(host_pb2.GetHostRequest())
        self.see(
            host.hostname == "storage",
            f"GetHost: targetd {host.version} on {host.hostname}, Linux {host.kernel_release}, "
            f"portals {', '.join(host.portals)}",
        )
        for initiator in (self.a, self.b):
            initiator.start()

    def create(self) -> None:
        self.step("CreateVolume (thin and thick), CreateExport, InitializeConnection for a")
        for volume_id, pool in ((self.thin, "thin"), (self.thick, "thick")):
            volume = self.volumes.CreateVolume(
                volume_pb2.CreateVolumeRequest(
                    volume_id=volume_id, pool=pool, size_bytes=64 * MEBIBYTE
                )
            )
            self.see(
                volume.size_bytes == 64 * MEBIBYTE,
                f"{pool} volume {volume_id}, {volume.size_bytes >> 20} MiB, {volume.device_path}",
            )
            self.connect(volume_id, self.a)
        shown = dict(self.properties[self.thin], auth_password="***")
        print("    properties: " + json.dumps(shown, indent=6).replace("\n}", "\n    }"))

    def connect(self, volume_id: str, initiator: Initiator) -> Mapping[str, Any]:
        volume = {"id": volume_id}
        self.driver.validate_connector(initiator.connector)
        self.driver.create_export(None, volume)
        answer = self.driver.initialize_connection(
            volume, initiator.connector, attachment_id=f"{volume_id[:8]}-{initiator.node.name}"
        )
        data: Mapping[str, Any] = answer["data"]
        self.properties[volume_id] = data
        return data

    def use(self) -> None:
        self.step("On node a, open-iscsi logs in with these properties; a file system is made")
        disk = self.a.log_in(self.properties[self.thin])
        size, serial = self.a.size_bytes(disk), self.a.serial(disk)
        self.see(size == 64 * MEBIBYTE, f"{disk} has {size} bytes")
        self.see(serial == self.thin, f"its serial is the volume id, {serial}")
        volume = self.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=self.thin))
        self.see(self.a.wwid(disk) == volume.wwid, f"its WWID is {volume.wwid}")
        content, run = secrets.token_hex(MEBIBYTE), self.a.node.run
        run(["mkfs.ext4", "-q", disk])
        run(["mkdir", "-p", "/srv/disk"])
        run(["mount", disk, "/srv/disk"])
        self.a.node.write("/srv/disk/data", content)
        run(["sync"])
        run(["umount", "/srv/disk"])
        there = self._checksum(self.a.node, disk)
        here = self._checksum(self.storage.node, volume.device_path)
        self.see(
            there == here, f"the LV holds what was written, byte for byte (sha256 {here[:12]})"
        )

    @staticmethod
    def _checksum(node: Machine, device: str) -> str:
        node.run(["blockdev", "--flushbufs", device])
        return str(node.run(["sha256sum", device]).stdout.split()[0])

    def show_status(self) -> None:
        self.step("ListConnections and ListSessions")
        found = self.exports.ListConnections(
            export_pb2.ListConnectionsRequest(volume_id=self.thin)
        ).connections
        self.see(len(found) == 1, "one connection")
        one = found[0]
        self.see(
            one.authorized and one.logged_in and list(one.peer_addresses) == [self.a.node.address],
            f"{one.host} ({one.initiator}): attached and logged in from "
            f"{', '.join(one.peer_addresses)}, {one.commands} commands",
        )
        self.see(not one.shared_with_attachment_ids, "the volume is not shared")
        sessions = self.exports.ListSessions(
            export_pb2.ListSessionsRequest(volume_id=self.thin)
        ).sessions
        self.see(
            [list(s.attachment_ids) for s in sessions] == [[one.attachment_id]],
            f"one session, {sessions[0].state}, of attachment {one.attachment_id}",
        )
        self.agree_with_targetcli()

    def agree_with_targetcli(self) -> None:
        """targetcli, an independent reader, sees the same targets and initiators."""
        client = Client(self._channel)
        differs = targetcli_differs(self.storage, client)
        exports, connections = client.list_exports(), client.list_connections()
        self.see(
            not differs,
            f"targetcli ls agrees: {len(exports)} targets, {len(connections)} ACLs",
        )

    def refuse(self) -> None:
        self.step("What must be refused is tried")
        right = self.properties[self.thick]
        wrong = dict(right, auth_password="wrong" + secrets.token_hex(4))
        self.refused("a with a wrong secret", lambda: self.a.log_in(wrong))
        without = {key: value for key, value in right.items() if not key.startswith("auth_")}
        self.refused("a without CHAP", lambda: self.a.log_in(without))
        stranger = "iqn.2026-01.org.example.lab:nobody"
        self.refused("an unknown initiator", lambda: self.b.log_in(right, stranger))
        self.refused("b with a's secret", lambda: self.b.log_in(right))
        seen = self.b.discover(right["target_portal"])
        self.see(not seen, "discovery by b, which is a stranger, shows nothing")
        self.refused(
            "a second host on a volume that is not multi-attach",
            lambda: self.connect(self.thin, self.b),
        )

    def share(self) -> None:
        self.step("A multi-attach volume is attached to a and to b")
        self.volumes.CreateVolume(
            volume_pb2.CreateVolumeRequest(
                volume_id=self.shared, pool="thin", size_bytes=64 * MEBIBYTE, multi_attach=True
            )
        )
        for_a = self.connect(self.shared, self.a)
        for_b = self.connect(self.shared, self.b)
        self.a.log_in(for_a)
        disk = self.b.log_in(for_b)
        export = self.exports.GetExport(export_pb2.GetExportRequest(volume_id=self.shared))
        self.see(
            export.shared and export.session_count == 2,
            f"shared by {' and '.join(export.attachment_ids)}, {export.session_count} sessions",
        )
        self.agree_with_targetcli()
        writing = Writing(self.b.node, disk, WRITER_SECONDS)
        answer = self.exports.TerminateConnection(
            export_pb2.TerminateConnectionRequest(
                volume_id=self.shared, attachment_id=for_a["attachment_id"]
            )
        )
        self.see(
            answer.sessions_closed
            and list(answer.remaining_attachment_ids) == [for_b["attachment_id"]],
            "a is terminated while b writes: its live session was closed, b remains",
        )
        left = self.exports.GetExport(export_pb2.GetExportRequest(volume_id=self.shared))
        self.see(left.session_count == 1, "one session is left on the target")
        self.a.drop(for_a["target_iqn"])
        self.refused("a's next login", lambda: self.a.log_in(for_a))
        self.written(self.b, writing)

    def written(self, initiator: Initiator, writing: Writing) -> None:
        done = writing.written
        self.see(
            done.failed == 0,
            f"{initiator.node.name} wrote {done.blocks} blocks meanwhile, "
            f"{done.failed} failed, the slowest in {done.longest_seconds} s",
        )

    def kill(self) -> None:
        self.step("The daemon is killed with SIGKILL, an attachment being live and written to")
        before, pid = self._state(), self.storage.main_pid()
        writing = Writing(self.b.node, self._disk_of_b(), WRITER_SECONDS)
        self.storage.kill_and_wait()
        self.see(self.storage.health() == "SERVING", "systemd started it again, and it is healthy")
        self.see(self.storage.main_pid() != pid, f"pid {pid} became {self.storage.main_pid()}")
        self.see(self._state() == before, "volumes, exports and connections are the same as before")
        self.agree_with_targetcli()
        self.written(self.b, writing)

    def _disk_of_b(self) -> str:
        link = f"/dev/disk/by-id/wwn-0x{self._wwid(self.shared)}"
        return self.b.node.run(["readlink", "--canonicalize-existing", link]).stdout.strip()

    def _wwid(self, volume_id: str) -> str:
        volume = self.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=volume_id))
        return str(volume.wwid).removeprefix("3")

    def _state(self) -> list[Any]:
        volumes = self.volumes.ListVolumes(volume_pb2.ListVolumesRequest()).volumes
        exports = self.exports.ListExports(export_pb2.ListExportsRequest()).exports
        connections = self.exports.ListConnections(export_pb2.ListConnectionsRequest()).connections
        return [
            [(v.volume_id, v.size_bytes, v.pool, v.multi_attach, v.state) for v in volumes],
            [(e.volume_id, tuple(e.attachment_ids), e.session_count) for e in exports],
            [(c.attachment_id, c.initiator, c.state, c.logged_in) for c in connections],
        ]

    def clean_up(self) -> None:
        self.step("TerminateConnection, RemoveExport, DeleteVolume: nothing is left")
        self.refused(
            "RemoveExport while b is attached",
            lambda: self.driver.remove_export(None, {"id": self.shared}),
        )
        for initiator, volume_id in ((self.b, self.shared), (self.a, self.thin)):
            initiator.log_out(self.properties[volume_id]["target_iqn"])
        for volume_id in (self.shared, self.thin, self.thick):
            volume = {"id": volume_id}
            self.driver.terminate_connection(volume, None)
            self.driver.remove_export(None, volume)
            answer = self.volumes.DeleteVolume(volume_pb2.DeleteVolumeRequest(volume_id=volume_id))
            self._wait_wiped(answer.operation_id)
        run = self.storage.node.run
        core = "/sys/kernel/config/target/core"
        left = run(["find", core, "-mindepth", "1", "-maxdepth", "1", "-name", "iblock_*"]).stdout
        iscsi = "/sys/kernel/config/target/iscsi"
        left += run(["find", iscsi, "-mindepth", "1", "-maxdepth", "1", "-name", "iqn*"]).stdout
        self.see(not left, "configfs holds no target and no backstore")
        volumes = run(["lvm", "lvs", "--noheadings", "-o", "lv_name", GROUP]).stdout.split()
        self.see(volumes == ["thin"], "LVM holds no volume but the thin pool itself")
        self.agree_with_targetcli()

    def _wait_wiped(self, operation_id: str) -> None:
        if operation_id:
            done = self.storage.wait_wiped(operation_id).done_bytes
            self.see(True, f"the thick volume was wiped with zeros, {done >> 20} MiB")

    def run(self) -> None:
        for do in (
            self.start_daemon,
            self.create,
            self.use,
            self.show_status,
            self.refuse,
            self.share,
            self.kill,
            self.clean_up,
        ):
            do()


def main() -> None:
    started = time.monotonic()
    print("Booting three nodes: a storage host, and a and b that attach to it ...", flush=True)
    folder = Path("build/lab").absolute()
    try:
        with ExitStack() as stack:
            lab = stack.enter_context(Lab(folder, [spec(), Spec("a"), Spec("b")]))
            demo = Demo(lab, started)
            stack.callback(demo.close)
            try:
                demo.run()
            except (StepFailed, LabError, DriverError, grpc.RpcError):
                print(f"\nThe daemon's journal:\n{demo.storage.journal()}", file=sys.stderr)
                raise
    except (StepFailed, LabError, DriverError, grpc.RpcError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; the nodes are gone, nothing is left behind")
    print(f"\nEvery step held. {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
