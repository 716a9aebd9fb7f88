"""A storage host on a node of the lab: disks, volume group, and targetd as its unit runs it."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.node import Node
from lab.service import CONFIGURATION_PATH as CONFIGURATION_PATH
from lab.service import GROUP as GROUP
from lab.service import GRPC_PORT as GRPC_PORT
from lab.service import STATE_FOLDER as STATE_FOLDER
from lab.service import TARGETS as TARGETS
from lab.service import TargetdService
from lab.spec import Spec
from targetd.tls_authority import Authority

ROOT = Path(__file__).resolve().parent.parent
# Logical volumes that tests let the daemon release, and that are then nobody's.
RELEASED_PREFIX = "released-"
GIBIBYTE = 1 << 30
MEBIBYTE = 1 << 20
# What Debian's targetd package would install as /usr/bin/targetd.
COMMAND = """\
#!/bin/sh
PYTHONPATH={root} exec {python} -m targetd "$@"
"""
UNITS = "/etc/systemd/system"
DROP_IN = """\
[Unit]
Requires=lab-disks.service
After=lab-disks.service
[Service]
# The interpreter and this checkout may be below a home or /tmp.
ProtectHome=read-only
PrivateTmp=no
"""
# As a host's own units do it at boot. A volume group with a half-made volume is
# activated in part, which is an error, and for the daemon to put right.
DISKS = """\
[Unit]
DefaultDependencies=no
# It starts when udev has seen all devices.
After=lab-agent.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mkdir -p {folder}
ExecStart=mount {device} {folder}
ExecStart=-lvm vgchange --activate y {group}
"""


def spec(name: str = "storage", ports: int = 1) -> Spec:
    """A node with a disk for volumes and one for the daemon's state."""
    return Spec(
        name,
        disks_bytes=(4 * GIBIBYTE, 256 * MEBIBYTE),
        memory_mib=512,
        systemd=True,
        ports=ports,
    )


class StorageHost(TargetdService):
    """targetd from this checkout, on a booted node with disks of its own."""

    node: Node

    def __init__(
        self,
        node: Node,
        volumes_device: str = "/dev/ubda",
        state_device: str = "/dev/ubdb",
        authority: Authority | None = None,
    ) -> None:
        super().__init__(node, authority)
        self._volumes_device = volumes_device
        self._state_device = state_device

    def prepare_disks(self) -> None:
        """Once for the life of the disks: the volume group, and the state's file system."""
        run = self.node.run
        run(["lvm", "vgcreate", GROUP, self._volumes_device])
        run(["lvm", "lvcreate", "-y", "--type", "thin-pool", "-n", "thin", "-L", "1g", GROUP])
        run(["mkfs.ext4", "-q", self._state_device])

    def install(self) -> None:
        """On a node that runs: what a package would have put on the node's own disk."""
        self.pack()
        self.node.unpack()
        self.node.run(["systemctl", "daemon-reload"])
        self.node.run(["systemctl", "start", "lab-disks"])

    def pack(self) -> None:
        """Let the node have the daemon at each of its boots, and start it as it comes up."""
        pack = self.node.pack
        pack(CONFIGURATION_PATH, self.configuration)
        self.pack_surroundings()
        pack("/usr/bin/targetd", COMMAND.format(root=ROOT, python=sys.executable), mode="755")
        unit = (ROOT / "systemd" / "targetd.service").read_text(encoding="utf-8")
        pack(f"{UNITS}/targetd.service", unit)
        pack(f"{UNITS}/targetd.service.d/lab.conf", DROP_IN)
        pack(f"{UNITS}/lab.target.d/targetd.conf", "[Unit]\nWants=targetd.service\n")

    def pack_surroundings(self) -> None:
        """What is not targetd's own: its certificates, and the disks' units."""
        self.pack_certificates()
        disks = DISKS.format(device=self._state_device, folder=STATE_FOLDER, group=GROUP)
        self.node.pack(f"{UNITS}/lab-disks.service", disks)
