"""An attaching host on a node: open-iscsi, driven by connection properties."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from lab.errors import CommandFailed, LabError
from lab.node import Node

DEVICE_SECONDS = 15.0
# From open-iscsi's iscsi_err.h.
LOGIN_REFUSED = 24
NO_RECORDS = 21
RECORDS = "/etc/iscsi/nodes"
INTERFACE = "other-name"


class LoginRefused(LabError):
    """The target did not let the initiator in."""


class Initiator:
    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def name(self) -> str:
        return self.node.initiator_name

    @property
    def connector(self) -> dict[str, Any]:
        """What the attachment layer is told of this host."""
        return {
            "initiator": self.name,
            "host": self.node.name,
            "ip": self.node.address,
            "multipath": False,
            "platform": "x86_64",
            "os_type": "linux",
        }

    def start(self) -> None:
        self.node.run(["mkdir", "-p", "/run/lock/iscsi", RECORDS])
        self.node.run(["iscsid"])

    def discover(self, portal: str) -> list[str]:
        """The names of the targets that the portal shows to this initiator."""
        done = self.node.run(
            ["iscsiadm", "--mode", "discovery", "--type", "sendtargets", "--portal", portal],
            check=False,
        )
        if done.status not in (0, NO_RECORDS):
            raise CommandFailed(["iscsiadm", "--mode", "discovery"], done.status, done.stderr)
        return [line.split()[1] for line in done.stdout.splitlines()]

    def log_in(self, properties: Mapping[str, Any], initiator_name: str = "") -> str:
        """Log in without discovery, as os-brick does; returns the disk's device.

        ``initiator_name`` pretends to be another host. Raises LoginRefused.
        """
        iqn, portal = properties["target_iqns"][0], properties["target_portals"][0]
        where = ["--mode", "node", "--targetname", iqn, "--portal", portal]
        if initiator_name:
            self._pretend(initiator_name)
            where += ["--interface", INTERFACE]
        self._iscsiadm(*where, "--op", "new")
        self._set_record(iqn, _settings(properties))
        done = self.node.run(["iscsiadm", *where, "--login"], check=False)
        if done.status:
            self._iscsiadm("--mode", "node", "--targetname", iqn, "--op", "delete")
            if done.status == LOGIN_REFUSED:
                raise LoginRefused(done.stderr.strip())
            raise CommandFailed(["iscsiadm", "--login"], done.status, done.stderr)
        return self._device(iqn, portal)

    def _pretend(self, initiator_name: str) -> None:
        self.node.write(
            f"/etc/iscsi/ifaces/{INTERFACE}",
            f"iface.iscsi_ifacename = {INTERFACE}\niface.transport_name = tcp\n"
            f"iface.initiatorname = {initiator_name}\n",
            mode="600",
        )

    def _set_record(self, iqn: str, settings: Mapping[str, str]) -> None:
        """Edit the record's file: on a command line the secret would be seen."""
        found = self.node.run(["find", f"{RECORDS}/{iqn}", "-type", "f"]).stdout.split()
        for path in found:
            lines = self.node.run(["cat", path]).stdout.splitlines()
            kept = [line for line in lines if line.partition(" = ")[0] not in settings]
            end = kept.index("# END RECORD")
            kept[end:end] = [f"{key} = {value}" for key, value in settings.items()]
            self.node.write(path, "\n".join(kept) + "\n", mode="600")

    def _device(self, iqn: str, portal: str) -> str:
        link = f"/dev/disk/by-path/ip-{portal}-iscsi-{iqn}-lun-0"
        end = time.monotonic() + DEVICE_SECONDS
        while time.monotonic() < end:
            self.node.run(["udevadm", "settle"])
            found = self.node.run(["readlink", "--canonicalize-existing", link], check=False)
            if found.status == 0:
                return found.stdout.strip()
            time.sleep(0.1)
        raise LabError(f"{link} did not appear in {DEVICE_SECONDS:g} s")

    def log_out(self, iqn: str) -> None:
        """Log out and forget the record."""
        self._iscsiadm("--mode", "node", "--targetname", iqn, "--logout")
        self._iscsiadm("--mode", "node", "--targetname", iqn, "--op", "delete")

    def drop(self, iqn: str) -> None:
        """Stop knocking at a target that has shut this host out."""
        self.node.run(["iscsiadm", "--mode", "node", "--targetname", iqn, "--logout"], check=False)
        self.node.run(
            ["iscsiadm", "--mode", "node", "--targetname", iqn, "--op", "delete"], check=False
        )

    def sessions(self) -> list[str]:
        """The names of the targets that this host has sessions with."""
        done = self.node.run(["iscsiadm", "--mode", "session"], check=False)
        return re.findall(r" (iqn\.\S+)", done.stdout)

    def serial(self, device: str) -> str:
        """The unit serial that the disk itself tells (VPD page 80h)."""
        name = device.removeprefix("/dev/")
        page = self.node.run(["cat", f"/sys/block/{name}/device/vpd_pg80"]).stdout
        return page[4:].strip("\0 \n")

    def wwid(self, device: str) -> str:
        name = device.removeprefix("/dev/")
        text = self.node.run(["cat", f"/sys/block/{name}/device/wwid"]).stdout.strip()
        return "3" + text.removeprefix("naa.")

    def size_bytes(self, device: str) -> int:
        return int(self.node.run(["blockdev", "--getsize64", device]).stdout)

    def _iscsiadm(self, *arguments: str) -> str:
        return self.node.run(["iscsiadm", *arguments]).stdout


def _settings(properties: Mapping[str, Any]) -> dict[str, str]:
    settings = {
        "node.session.scan": "auto",
        "node.session.initial_login_retry_max": "1",
        "node.session.auth.authmethod": properties.get("auth_method") or "None",
    }
    if properties.get("auth_method"):
        settings["node.session.auth.username"] = properties["auth_username"]
        settings["node.session.auth.password"] = properties["auth_password"]
    return settings
