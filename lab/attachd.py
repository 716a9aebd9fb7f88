"""attachd on the lab's network: a process of this machine beside the nodes, over TLS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from attachd.config import IdentityKind
from lab import program
from lab.errors import LabError
from lab.lab import Lab
from lab.network import GATEWAY_HOST, address
from lab.storage import GRPC_PORT, ROOT, StorageHost
from targetd.roles import Role
from targetd.tls_authority import Authority

PORT = 8776
START_SECONDS = 60.0
STOP_SECONDS = 30.0
CONFIGURATION = """\
state_directory = "{folder}"
socket = ""
listen = "{address}:{port}"
identity = "{identity}"
noauth_anywhere = true
log_level = "info"

[tls]
certificate = "{folder}/server.pem"
key = "{folder}/server.key"

[host_tls]
certificate = "{client.certificate}"
key = "{client.key}"
ca = "{client.ca}"
"""


class AttachmentManager:
    """One that serves the storage hosts given, by their names; close it when done.

    A second one in the same lab needs another port, and has records of its own.
    """

    def __init__(
        self,
        lab: Lab,
        storage: Mapping[str, StorageHost],
        identity: IdentityKind = IdentityKind.TOKENS,
        port: int = PORT,
    ) -> None:
        self._lab = lab
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = lab.folder / f"attachd-{port}"
        self.folder.mkdir(mode=0o700)
        self.address = address(0, GATEWAY_HOST)
        self.url = f"https://{self.address}:{port}"
        # What clients know its certificate by; nodes see it too.
        self.ca = self.folder / "ca.pem"
        self._write_certificates()
        client = next(iter(storage.values())).endpoint_for(Role.ADMIN).tls
        self.configuration = self.folder / "attachd.toml"
        self.configuration.write_text(
            CONFIGURATION.format(
                folder=self.folder,
                address=self.address,
                port=port,
                identity=identity,
                client=client,
            )
        )
        for name, host in storage.items():
            self.command("host", "add", name, f"{host.node.address}:{GRPC_PORT}")

    def _write_certificates(self) -> None:
        authority = Authority.new("attachd lab")
        certificate, key = authority.server("attachd", (self.address,))
        for path, content in (
            (self.ca, authority.certificate),
            (self.folder / "server.pem", certificate),
            (self.folder / "server.key", key),
        ):
            path.write_bytes(content)

    @property
    def _argv(self) -> list[str]:
        path = f"PYTHONPATH={ROOT}:{ROOT / 'drivers'}"
        return ["env", path, sys.executable, "-m", "attachd", "--config", str(self.configuration)]

    def command(self, *arguments: str) -> str:
        """What ``attachd ARGUMENTS`` prints. Raises CommandFailed."""
        argv = self._lab.network.wrap([*self._argv, *arguments])
        return program.run(argv, timeout_seconds=START_SECONDS).stdout.strip()

    def token(self, project: str, *, admin: bool = False) -> str:
        """A new one; a secret."""
        return self.command("token", "add", "--project", project, *(["--admin"] if admin else []))

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Raises LabError, with its own words, when it does not come up."""
        with self.log.open("ab") as log:
            self._process = self._lab.popen_in_network(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS
        while self._connect().returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                raise LabError(f"attachd did not start: {self.log.read_text(errors='replace')}")
            time.sleep(0.1)

    def _connect(self) -> subprocess.CompletedProcess[str]:
        script = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
        argv = [sys.executable, "-c", script, self.address, str(self._port)]
        return self._lab.run_in_network(argv, check=False)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it at once, or as the signal says; ``start`` begins again with the same records."""
        if self._process is not None:
            os.kill(self._process.pid, number)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def close(self) -> None:
        self.kill()
