"""targetd as a service of a machine, configured by its tests and reached by them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from targetd_driver import Endpoint, TlsFiles

from lab.errors import LabError
from lab.health import status_of
from lab.machine import Machine
from targetd.api.v1 import host_pb2, host_pb2_grpc
from targetd.roles import Role
from targetd.tls_authority import Authority

TARGETS = "/sys/kernel/config/target/iscsi"
GRPC_PORT = 7788
GROUP = "storage"
STATE_FOLDER = "/var/lib/targetd"
HEALTHY_SECONDS = 30.0
START_SECONDS_MAX = 120.0
CONFIGURATION_PATH = "/etc/targetd/targetd.toml"
CONFIGURATION = """\
listen = "0.0.0.0:{port}"
portal_addresses = {portals}
log_level = "info"

[tls]
certificate = "/etc/targetd/server.pem"
key = "/etc/targetd/server.key"
client_ca = "/etc/targetd/ca.pem"

[[pool]]
name = "thick"
volume_group = "{group}"

[[pool]]
name = "thin"
volume_group = "{group}"
thin_pool = "thin"
"""


class TargetdService:
    """targetd under systemd on a booted machine, reached over TCP with mutual TLS."""

    def __init__(self, node: Machine, authority: Authority | None = None) -> None:
        """``authority``: of several hosts that the same clients reach."""
        self.node = node
        self._authority = authority or Authority.new("targetd lab")
        self._forward = node.forward(GRPC_PORT)
        self._server = self._authority.server(node.name, (node.name, node.address, "127.0.0.1"))
        self.endpoint = self.endpoint_for(Role.ADMIN)

    def endpoint_for(self, role: Role) -> Endpoint:
        """As a client with a certificate of that role reaches the daemon."""
        folder = self.node.folder / f"client-{role}"
        folder.mkdir(exist_ok=True)
        files = TlsFiles(folder / "client.pem", folder / "client.key", folder / "ca.pem")
        certificate, key = self._authority.client(f"lab-{role}", role)
        files.certificate.write_bytes(certificate)
        files.key.write_bytes(key)
        files.ca.write_bytes(self._authority.certificate)
        return Endpoint(f"127.0.0.1:{self._forward.port}", files)

    def pack_certificates(self) -> None:
        """Those that the configuration names."""
        pack = self.node.pack
        certificate, key = self._server
        pack("/etc/targetd/server.pem", certificate)
        pack("/etc/targetd/server.key", key, mode="600")
        pack("/etc/targetd/ca.pem", self._authority.certificate)

    def boot(self) -> None:
        """Boot the node and wait for its daemon. Raises LabError with the daemon's own words
        when it does not start."""
        self.node.boot()
        self.start()

    @property
    def configuration(self) -> str:
        portals = json.dumps(self.node.addresses)
        return CONFIGURATION.format(port=GRPC_PORT, portals=portals, group=GROUP)

    @contextmanager
    def configured(self, *changes: tuple[str, str]) -> Iterator[None]:
        """Inside the block the daemon runs with parts of its configuration replaced."""
        text = self.configuration
        for old, new in changes:
            if old not in text:
                raise LabError(f"the configuration has no {old!r}")
            text = text.replace(old, new, 1)
        try:
            self._restart_with(text)
            yield
        finally:
            self._restart_with(self.configuration)

    def _restart_with(self, configuration: str) -> None:
        self.stop()
        self.node.write(CONFIGURATION_PATH, configuration)
        self.start()

    def start(self) -> None:
        """Raises LabError with the daemon's own words when it does not start."""
        done = self.node.run(
            ["systemctl", "start", "targetd"], check=False, timeout_seconds=START_SECONDS_MAX
        )
        if done.status:
            raise LabError(f"targetd did not start: {done.stderr}{self.journal()}")

    def stop(self) -> None:
        self.node.run(["systemctl", "stop", "targetd"])

    def kill(self) -> None:
        """SIGKILL; the unit starts the daemon again by itself."""
        self.node.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "targetd"])

    def kill_and_wait(self) -> None:
        """SIGKILL, and wait until the daemon that follows is healthy."""
        pid = self.main_pid()
        self.kill()
        self.wait_for_next(pid)

    def wait_for_next(self, pid: int) -> None:
        """Wait until a daemon that is not that process is healthy. Raises LabError."""
        end = time.monotonic() + HEALTHY_SECONDS
        while self.main_pid() in (0, pid):
            if time.monotonic() > end:
                raise LabError(f"targetd was not started again: {self.journal()}")
            time.sleep(0.1)
        if self.health() != "SERVING":
            raise LabError(f"targetd is not healthy after its restart: {self.journal()}")

    def main_pid(self) -> int:
        shown = self.node.run(["systemctl", "show", "--property=MainPID", "--value", "targetd"])
        return int(shown.stdout)

    def journal(self) -> str:
        """What the daemon has said since the node was booted."""
        return self.written_by(["journalctl", "--unit=targetd", "--no-pager", "--output=cat"])

    def whole_journal(self) -> str:
        return self.written_by(["journalctl", "--no-pager"])

    def written_by(self, argv: list[str]) -> str:
        """What a program prints on the node, however much it is."""
        return self.node.output(argv)

    def targetcli(self) -> str:
        """What Debian's targetcli makes of the node's targets (``targetcli ls``)."""
        if self.node.run(["test", "-S", "/run/dbus/system_bus_socket"], check=False).status:
            # targetcli asks the system bus for handlers in user space, and fails without it.
            self.node.run(["mkdir", "-p", "/run/dbus"])
            self.node.run(["dbus-daemon", "--system", "--fork"])
        return self.node.run(["targetcli", "ls"]).stdout

    def targets(self) -> list[str]:
        """The names of those that the kernel has."""
        find = ["find", TARGETS, "-maxdepth", "1", "-name", "iqn.*", "-printf", "%f\\n"]
        return self.node.run(find).stdout.split()

    def health(self) -> str:
        """What the daemon answers to grpc.health.v1, over TCP."""
        with self.endpoint.channel() as channel:
            return status_of(channel, HEALTHY_SECONDS)

    def wait_wiped(self, operation_id: str) -> host_pb2.Operation:
        """Wait until the data of a deleted volume is gone. Raises LabError."""
        request = host_pb2.GetOperationRequest(operation_id=operation_id)
        end = time.monotonic() + HEALTHY_SECONDS
        with self.endpoint.channel() as channel:
            stub = host_pb2_grpc.HostServiceStub(channel)
            while True:
                operation = stub.GetOperation(request)
                if operation.state != host_pb2.OPERATION_STATE_RUNNING:
                    break
                if time.monotonic() > end:
                    raise LabError(f"wipe {operation_id} is not done")
                time.sleep(0.1)
        if operation.state != host_pb2.OPERATION_STATE_DONE:
            raise LabError(f"wipe {operation_id}: {operation.error}")
        return operation

    def channel(self) -> grpc.Channel:
        return self.endpoint.channel()

    def close(self) -> None:
        self._forward.close()
