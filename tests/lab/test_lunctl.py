"""lunctl on a real storage node: healthy, and with planted faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.storage import ROOT, StorageHost
from tests.hosts import Host, LabBacking, properties_of

pytestmark = pytest.mark.lab

LVM_CONFIGURATION = "/etc/lvm/lvmlocal.conf"
OTHER_MANAGER = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=true
"""
# What a node of the lab lacks of a host that is looked after: nothing keeps its clock, its
# units are started by the tests, and its certificates live for a week.
LAB = {"clock", "unit", "certificates"}


@pytest.fixture
def storage(lab_backing: LabBacking) -> StorageHost:
    return lab_backing.storage


def _lunctl(storage: StorageHost, *arguments: str) -> Any:
    """Run on the node itself, as root there; returns its JSON."""
    done = storage.node.run(
        [sys.executable, "-m", "targetd.lunctl", *arguments, "--json"],
        environment={"PYTHONPATH": f"{ROOT}:{ROOT}/drivers"},
        check=False,
    )
    assert done.status in (0, 1), done.stderr
    return json.loads(done.stdout)


def _wrong(storage: StorageHost, *arguments: str) -> list[tuple[str, str]]:
    found = _lunctl(storage, "doctor", *arguments)["findings"]
    return [
        (one["about"], f"{one['what']} {one['cure']}")
        for one in found
        if one["level"] in ("error", "warning") and one["about"] not in LAB
    ]


@contextmanager
def _instead(storage: StorageHost, do: list[str], undo: list[str]) -> Iterator[None]:
    storage.node.run(do)
    try:
        yield
    finally:
        storage.node.run(undo)


def test_doctor_and_status_of_a_healthy_node(
    lab_host: Host, lab_backing: LabBacking, storage: StorageHost
) -> None:
    volume_id = lab_host.create("thin")
    properties = properties_of(lab_host.attach(volume_id))
    assert lab_backing.log_in("a", properties)
    assert _wrong(storage) == []
    status = _lunctl(storage, "status")
    assert status["findings"] == []
    assert [one["volume_id"] for one in status["volumes"]] == [volume_id]
    (session,) = _lunctl(storage, "session", "list")["sessions"]
    assert session["attachment_ids"] == ["attachment-a"]
    holder = next(
        one for one in _lunctl(storage, "why", volume_id)["reasons"] if one["kind"] == "holder"
    )
    assert "a by attachment attachment-a (read-write): logged in from" in holder["what"]
    lab_backing.log_out("a", properties)


def test_doctor_finds_what_was_planted(lab_host: Host, storage: StorageHost) -> None:
    node = storage.node
    node.write("/run/lvmlocal.conf", "devices { scan_lvs = 1 }\n")
    with _instead(
        storage, ["cp", "/run/lvmlocal.conf", LVM_CONFIGURATION], ["rm", LVM_CONFIGURATION]
    ):
        ((about, text),) = _wrong(storage)
        assert about == "lvm.conf" and "set scan_lvs=0" in text

    lvchange = ["lvm", "lvchange", "--zero"]
    with _instead(storage, [*lvchange, "n", "storage/thin"], [*lvchange, "y", "storage/thin"]):
        ((about, text),) = _wrong(storage)
        assert about == "pools" and "lvchange --zero y storage/thin" in text

    key = "/var/lib/targetd/host.key"
    with _instead(storage, ["chmod", "644", key], ["chmod", "600", key]):
        ((about, text),) = _wrong(storage)
        assert about == "host key" and f"chmod 600 {key}" in text

    node.write("/run/other.toml", '[[pool]]\nname = "p"\nvolume_group = "absent"\n')
    ((about, text),) = _wrong(storage, "--config", "/run/other.toml")
    assert about == "pools" and "vgcreate absent" in text
    assert _wrong(storage) == [], "all is as it was"


def test_doctor_finds_another_manager(lab_host: Host, storage: StorageHost) -> None:
    storage.node.write("/run/systemd/system/target.service", OTHER_MANAGER)
    storage.node.run(["systemctl", "daemon-reload"])
    # The unit conflicts with it, so the daemon ends.
    with _instead(storage, ["systemctl", "start", "target"], ["systemctl", "start", "targetd"]):
        found = dict(_wrong(storage))
    assert set(found) == {"managers", "daemon"}
    assert "systemctl disable --now target.service" in found["managers"]
    assert "systemctl status targetd" in found["daemon"]
    storage.node.run(["rm", "/run/systemd/system/target.service"])
    storage.node.run(["systemctl", "daemon-reload"])
    assert _wrong(storage) == []
