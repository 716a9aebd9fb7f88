"""Connection properties, open-iscsi's records, and what sysfs says, as they are read."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from targetd_local import AttachdError, LoginFailed, NotPossible
from targetd_local.connector import gather
from targetd_local.iscsi import OpenIscsi, Way, authentication, targets_of, ways, with_settings
from targetd_local.kernel import Kernel

from tests.local_host import INITIATOR, SECRET, FolderKernel, FolderPrograms, target_of

VOLUME = "15d18d8b-0481-401d-86d5-97ca1ec6189f"
IQN = target_of(VOLUME)
PLURAL = {
    "target_portals": ["192.0.2.11:3260", "[2001:db8::11]:3260"],
    "target_iqns": [IQN, IQN],
    "target_luns": [0, 1],
}
SINGLE = {"target_portal": "192.0.2.11:3260", "target_iqn": IQN, "target_lun": 0}
CHAP = {"auth_method": "CHAP", "auth_username": "someone", "auth_password": SECRET}


def test_ways_by_the_plural_keys_or_the_single_ones() -> None:
    first = Way("192.0.2.11:3260", IQN, 0)
    assert ways({**SINGLE, **PLURAL}) == [first, Way("[2001:db8::11]:3260", IQN, 1)]
    assert ways(SINGLE) == [first]
    (_, second) = ways(PLURAL)
    assert (second.address, second.port) == ("2001:db8::11", "3260")


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {**PLURAL, "target_luns": [0]},
        {**SINGLE, "target_lun": "one"},
        {**SINGLE, "target_iqn": "iqn.2026-11.org.example/../../../root"},
        {**SINGLE, "target_iqn": f"{IQN}\nnode.startup = automatic"},
        {**SINGLE, "target_portal": "192.0.2.11"},
        {**SINGLE, "target_portal": "--login:1"},
        {**SINGLE, "target_portals": 7},
    ],
)
def test_what_one_cannot_log_in_by(properties: dict[str, Any]) -> None:
    with pytest.raises(AttachdError):
        ways(properties)


def test_targets_of_incomplete_properties() -> None:
    assert targets_of(PLURAL) == targets_of(SINGLE) == {IQN}
    assert targets_of({}) == set() and targets_of({"target_iqn": "../x"}) == set()


def test_both_sides_of_chap() -> None:
    assert authentication({}) == {"node.session.auth.authmethod": "None"}
    assert authentication(CHAP) == {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": "someone",
        "node.session.auth.password": SECRET,
    }
    mutual = {"mutual_auth_username": "it", "mutual_auth_password": "its"}
    settings = authentication({**CHAP, **mutual})
    assert settings["node.session.auth.username_in"] == "it"
    assert settings["node.session.auth.password_in"] == "its"


def test_a_record_keeps_its_other_lines() -> None:
    record = "# BEGIN RECORD 2.1.8\na = 1\nb = 2\nb = 3\n# END RECORD\nbehind = 1\n"
    assert with_settings(record, {"b": "4", "c": "5"}) == (
        "# BEGIN RECORD 2.1.8\na = 1\nb = 4\nc = 5\n# END RECORD\n"
    )


@pytest.fixture
def kernel(tmp_path: Path) -> FolderKernel:
    return FolderKernel(tmp_path)


@pytest.fixture
def programs(kernel: FolderKernel) -> FolderPrograms:
    return FolderPrograms(kernel, [])


@pytest.fixture
def iscsi(programs: FolderPrograms, kernel: FolderKernel) -> OpenIscsi:
    return OpenIscsi(programs, kernel)


@pytest.mark.parametrize("records", ["etc/iscsi/nodes", "var/lib/iscsi/nodes"])
def test_the_secret_is_in_a_private_file_wherever_records_are(
    iscsi: OpenIscsi,
    programs: FolderPrograms,
    kernel: FolderKernel,
    records: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder with a file for each interface, as open-iscsi writes it with a known group."""
    file = kernel.root / records / IQN / "192.0.2.11,3260,1" / "default"
    file.parent.mkdir(parents=True)
    file.write_text("# BEGIN RECORD 2.1.8\n# END RECORD\n")
    file.chmod(0o644)
    monkeypatch.setattr(programs, "_record", lambda target, portal: None)
    (way,) = ways(SINGLE)
    iscsi.log_in(way, CHAP)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SECRET in file.read_text()
    assert SECRET not in " ".join(programs.log)
    iscsi.forget(IQN)
    assert not file.parent.parent.exists()


def test_records_that_are_nowhere_to_be_found(
    iscsi: OpenIscsi, programs: FolderPrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_record", lambda target, portal: None)
    (way,) = ways(SINGLE)
    with pytest.raises(LoginFailed, match="records"):
        iscsi.log_in(way, CHAP)


def test_a_secret_of_two_lines_writes_no_other_setting(iscsi: OpenIscsi) -> None:
    (way,) = ways(SINGLE)
    with pytest.raises(AttachdError) as caught:
        iscsi.log_in(way, {**CHAP, "auth_password": f"{SECRET}\nnode.startup = automatic"})
    assert SECRET not in str(caught.value)


def test_who_was_refused_is_told_so(iscsi: OpenIscsi, programs: FolderPrograms) -> None:
    programs.refuse, programs.status = "--login", 24
    (way,) = ways(SINGLE)
    with pytest.raises(LoginFailed, match="the target let this host not in"):
        iscsi.log_in(way, CHAP)
    assert iscsi.recorded(VOLUME) == {IQN}, "until it is forgotten"
    iscsi.forget(IQN)
    assert iscsi.recorded(VOLUME) == set()


def test_the_name_of_the_initiator(iscsi: OpenIscsi, kernel: FolderKernel) -> None:
    assert iscsi.initiator_name() == INITIATOR
    assert gather(iscsi, multipath=True)["initiator"] == INITIATOR
    path = kernel.root / "etc/iscsi/initiatorname.iscsi"
    path.write_text("GenerateName=yes\n#InitiatorName=iqn.2026-01.org.example:no\n")
    with pytest.raises(NotPossible, match="iscsi-iname"):
        iscsi.initiator_name()
    path.unlink()
    with pytest.raises(NotPossible, match="install open-iscsi"):
        iscsi.initiator_name()


def test_sessions_and_disks_as_sysfs_has_them(kernel: FolderKernel) -> None:
    kernel.log_in(IQN, "192.0.2.11:3260")
    (session,) = kernel.sessions()
    assert session.portal == "192.0.2.11:3260" and session.target == IQN and session.is_up
    assert session.disks == {0: "sda"}
    assert kernel.serial("sda") == VOLUME and kernel.serial("sdz") == ""
    connection = kernel.root / "sys/class/iscsi_session/session1/device/connection1:0"
    (connection / "iscsi_connection/connection1:0/persistent_address").write_text("2001:db8::11\n")
    assert kernel.sessions()[0].portal == "[2001:db8::11]:3260"
    kernel.fail()
    assert not kernel.sessions()[0].is_up


def test_wwids_as_udev_writes_them(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    wwid = tmp_path / "sys/class/block/sda/device/wwid"
    wwid.parent.mkdir(parents=True)
    for told, expected in (
        ("naa.600140515d18d8b0\n", "3600140515d18d8b0"),
        ("eui.0025385b71b0a2a5\n", "20025385b71b0a2a5"),
        ("\n", ""),
    ):
        wwid.write_text(told)
        assert kernel.wwid("sda") == expected
