"""An attaching host on a node that has what a real one has: multipathd, lunctl, and the field's
clients. It asks attachd itself, where ``Initiator`` is told what to log in by."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.attachd import AttachmentManager
from lab.errors import LabError
from lab.initiator import Initiator
from lab.node import Node, Process, Result
from lab.storage import ROOT

# Made by `make build/initiator build/clients/ready build/brick/ready`.
TREE, CLIENTS, BRICK = ROOT / "build/initiator", ROOT / "build/clients", ROOT / "build/brick"
TOKEN_FILE = "/root/token"
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND_SECONDS = 180.0
# What no session of the lab's own is among.
LEFT = """\
ls -d /dev/sd* /etc/iscsi/nodes/* /run/targetd-local/* 2>/dev/null
dmsetup ls --target multipath | grep -v '^No devices found$'
iscsiadm -m session 2>/dev/null
grep -v '^#' /etc/multipath/wwids
true
"""


class AttachingHost:
    def __init__(self, node: Node) -> None:
        for needed in (TREE, CLIENTS, BRICK):
            if not needed.exists():
                raise LabError(f"{needed} is missing; run: make {needed.relative_to(ROOT)}")
        self.node = node
        self.initiator = Initiator(node)
        self._urls: dict[str, str] = {}

    def start(self) -> None:
        """Once after each boot."""
        self.node.run(["cp", "-r", "--preserve=mode", f"{TREE}/etc", f"{TREE}/usr", "/"])
        # Where sudo looks, with which os-brick starts its privileged half.
        self.node.run(["ln", "-sf", f"{CLIENTS}/bin/privsep-helper", "/usr/local/bin/"])
        self.node.run(["ldconfig"])
        self.node.run(["modprobe", "-a", "dm-multipath", "dm-service-time"])
        self.node.run(["multipathd"])
        self.initiator.start()

    def give_token(self, token: str) -> None:
        self.node.write(TOKEN_FILE, token, mode="600")

    # lunctl

    def environment(self, manager: AttachmentManager) -> dict[str, str]:
        return {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'drivers'}",
            "PATH": PROGRAMS,
            "HOME": "/root",
            "LUNCTL_URL": manager.url,
            "LUNCTL_TLS_CA": str(manager.ca),
            "LUNCTL_TOKEN_FILE": TOKEN_FILE,
        }

    def lunctl(
        self,
        manager: AttachmentManager,
        *arguments: str,
        status: int = 0,
        more: Mapping[str, str] | None = None,
    ) -> Result:
        """Its end, with the status given. Raises LabError for any other."""
        done = self.node.run(
            self.lunctl_argv(*arguments),
            environment={**self.environment(manager), **(more or {})},
            timeout_seconds=COMMAND_SECONDS,
            check=False,
        )
        if done.status != status:
            raise LabError(
                f"lunctl {shlex.join(arguments)}: status {done.status}, not {status}: "
                f"{done.stdout}{done.stderr}"
            )
        return done

    def lunctl_argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "targetd.lunctl", *arguments]

    def attach(self, manager: AttachmentManager, volume_id: str, *options: str) -> dict[str, Any]:
        """What ``lunctl local-attach --json`` tells."""
        done = self.lunctl(manager, "local-attach", volume_id, *options, "--json")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def detach(self, manager: AttachmentManager, volume_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.lunctl(manager, "local-detach", volume_id, "--json").stdout
        )
        return found

    def begin_attach(self, manager: AttachmentManager, volume_id: str, *options: str) -> Process:
        """One that goes on meanwhile."""
        argv = self.lunctl_argv("local-attach", volume_id, *options, "--json")
        return self.node.start(argv, environment=self.environment(manager))

    # The field's clients, as they come from PyPI

    def cinder(
        self, manager: AttachmentManager, project: str, *arguments: str, printing: bool = True
    ) -> Result:
        """``printing``: with a client that the extension can print with (requirements-brick.txt).
        attachd must be one without authentication, the only kind that this client knows beside
        Keystone's.
        """
        environment = {
            "PATH": PROGRAMS,
            "HOME": "/root",
            "OS_AUTH_TYPE": "noauth",
            "OS_USER_ID": "lab",
            "OS_PROJECT_ID": project,
            "OS_CACERT": str(manager.ca),
            "OS_VOLUME_API_VERSION": "3.54",
            # os-brick refuses to work without a folder for its locks.
            "OSLO_LOCK_PATH": "/run/lock",
            **({"PYTHONPATH": str(BRICK)} if printing else {}),
        }
        argv = [f"{CLIENTS}/bin/cinder", "--os-endpoint", f"{manager.url}/v3", *arguments]
        return self.node.run(
            argv, environment=environment, timeout_seconds=COMMAND_SECONDS, check=False
        )

    # Its disks

    def left(self) -> str:
        """Sessions, disks, multipath devices and records of anybody; empty without any."""
        return self.node.run(["sh", "-c", LEFT]).stdout.strip()

    def write(self, device: str, path: Path) -> None:
        """The content of a file, seen by the node, to the beginning of a disk."""
        self.node.run(["dd", f"if={path}", f"of={device}", "bs=64K", "oflag=direct"])

    def holds(self, device: str, path: Path) -> bool:
        """Whether a disk begins with the content of the file."""
        size = str(path.stat().st_size)
        # Not what was written a moment ago, still in memory.
        self.node.run(["blockdev", "--flushbufs", device])
        compared = self.node.run(["cmp", "-n", size, str(path), device], check=False)
        if compared.status > 1:
            raise LabError(compared.stderr)
        return compared.status == 0
