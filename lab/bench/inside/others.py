"""The same attachment by the tools in use today, each checked to have made it."""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.bench.inside import bare
from lab.bench.inside.population import device, initiator, volume_id
from lab.bench.inside.report import milliseconds, p50, row, saying
from targetd.model import volume_name

PREFIX = "iqn.2026-01.org.example.other"
SYSTEM_BUS = Path("/run/dbus/system_bus_socket")


class Others:
    def __init__(self, given: argparse.Namespace) -> None:
        self._exports: int = given.exports
        self._spare: int = given.spare
        self._ours: float = given.ours
        self._address: str = given.portal_address
        self._repetitions: int = given.repetitions
        self._save: str = given.save
        self._target = f"{PREFIX}:{volume_id(given.spare)}"
        self._initiator = initiator(given.spare)
        self._device = os.path.realpath(device(given.spare))

    def measure(self, tool: str, name: str, attach: Callable[[], None]) -> None:
        seconds = []
        for _ in range(self._repetitions):
            with saying(f"{tool} attaches at {self._exports} exports"):
                started = time.perf_counter()
                attach()
                seconds.append(time.perf_counter() - started)
            if bare.acls_of(self._target) != [self._initiator]:
                raise AssertionError(f"{tool} has not attached")
            bare.remove_foreign(self._target, name)
        row(f"{tool}: attach", self._exports, milliseconds(p50(seconds)), "ms")
        row(f"attach / {tool}", self._exports, self._ours / p50(seconds), "ratio")

    def rtslib(self) -> None:
        # Imported before the time is taken, as a daemon would have it.
        import rtslib_fb

        def attach() -> None:
            self._rtslib_attach(rtslib_fb)
            rtslib_fb.RTSRoot().save_to_file(self._save)

        self.measure("rtslib", volume_name(volume_id(self._spare)), attach)

    def _rtslib_attach(self, rtslib: Any) -> None:
        volume = volume_id(self._spare)
        # Its cache does not notice that others removed what it made.
        rtslib.RTSRoot().invalidate_caches()
        backstore = rtslib.BlockStorageObject(volume_name(volume), self._device, wwn=volume)
        backstore.set_attribute("emulate_3pc", "0")
        target = rtslib.Target(rtslib.FabricModule("iscsi"), self._target, "create")
        tpg = rtslib.TPG(target, 1, "create")
        for name, value in (
            ("authentication", "1"),
            ("generate_node_acls", "0"),
            ("demo_mode_discovery", "0"),
        ):
            tpg.set_attribute(name, value)
        rtslib.LUN(tpg, 0, backstore)
        rtslib.NetworkPortal(tpg, self._address, 3260, "create")
        tpg.enable = True
        acl = rtslib.NodeACL(tpg, self._initiator, "create")
        acl.chap_userid = bare.USER
        acl.chap_password = bare.PASSWORD
        rtslib.MappedLUN(acl, 0, 0)

    def cinder(self, program: str) -> None:
        def attach() -> None:
            secret = (bare.USER, bare.PASSWORD)
            portal = (f"-a{self._address}", "-p3260")
            # targets/lio.py: create_iscsi_target, then initialize_connection.
            for arguments in (
                ("create", self._device, self._target, *secret, "False", *portal),
                ("get-targets",),
                ("save",),
                ("add-initiator", self._target, *secret, self._initiator),
                ("save",),
            ):
                subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)

        self.measure("cinder-rtstool", self._target, attach)

    def targetcli(self) -> None:
        if not SYSTEM_BUS.exists():
            # targetcli asks the system bus for handlers in user space, and fails without it.
            SYSTEM_BUS.parent.mkdir(exist_ok=True)
            subprocess.run(["dbus-daemon", "--system", "--fork"], check=True)
        name = volume_name(volume_id(self._spare))
        tpg = f"/iscsi/{self._target}/tpg1"
        commands = [
            "set global auto_add_default_portal=false",
            f"/backstores/block create name={name} dev={self._device}",
            f"/iscsi create {self._target}",
            f"{tpg} set attribute authentication=1 generate_node_acls=0 demo_mode_discovery=0",
            f"{tpg}/luns create /backstores/block/{name}",
            f"{tpg}/portals create {self._address}",
            f"{tpg}/acls create {self._initiator}",
            f"{tpg}/acls/{self._initiator} set auth userid={bare.USER} password={bare.PASSWORD}",
            f"saveconfig {self._save}.targetcli",
            "exit",
        ]

        def attach() -> None:
            subprocess.run(
                ["targetcli"],
                input="\n".join(commands) + "\n",
                text=True,
                check=True,
                stdout=subprocess.DEVNULL,
            )

        self.measure("targetcli", name, attach)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--exports", type=int, required=True)
    parser.add_argument("--spare", type=int, required=True)
    parser.add_argument("--ours", type=float, required=True)
    parser.add_argument("--portal-address", required=True)
    parser.add_argument("--repetitions", type=int, required=True)
    parser.add_argument("--save", required=True)
    parser.add_argument("--cinder", default="")
    given = parser.parse_args()
    others = Others(given)
    others.rtslib()
    if given.cinder:
        others.cinder(given.cinder)
    others.targetcli()


if __name__ == "__main__":
    main()
