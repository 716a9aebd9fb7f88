"""The doctor's findings: each planted fault is found, with its cure, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from targetd.api.v1 import export_pb2, host_pb2, volume_pb2
from targetd.config import Config, TlsConfig
from targetd.engines import process
from targetd.engines.process import Completed, ProcessFailed
from targetd.lunctl import checks, findings
from targetd.lunctl.findings import ERROR, OK, SKIPPED, WARNING, Finding
from targetd.lunctl.present import Present
from tests.hosts import POOLS, Host, SimulatedBacking
from tests.lunctl import Lunctl

GROUP = {
    "vg_name": "storage",
    "vg_attr": "wz--n-",
    "vg_systemid": "",
    "vg_lock_type": "",
    "vg_missing_pv_count": "0",
    "vg_extent_size": "4194304",
}
THIN = {
    "vg_name": "storage",
    "lv_name": "thin",
    "segtype": "thin-pool",
    "data_percent": "1.00",
    "zero": "zero",
}
UNIT = {"ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0"}
ADJTIMEX_OK = 0


class Machine:
    """What the programs and the kernel of a storage host answer; healthy until it is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.group: dict[str, str] | None = dict(GROUP)
        self.thin: dict[str, str] = dict(THIN)
        self.unit = dict(UNIT)
        self.scan_lvs, self.global_filter = "0", '["a|.*|"]'
        self.other_manager = "inactive"
        self.programs = {"thin_check"}
        self.modules = {*checks.MODULES, *checks.THIN_MODULES}
        self.mounted = True
        self.free_bytes = 1 << 30
        self.clock = ADJTIMEX_OK
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self.key = self.state / "host.key"
        self.key.write_bytes(bytes(32))
        self.key.chmod(0o600)
        self.config = Config(
            pools=POOLS, state_directory=self.state, portal_addresses=("127.0.0.1",)
        )

    def run(self, argv: Sequence[str], timeout_seconds: float = 0.0) -> Completed:
        return Completed(self._printed(argv), "", 0.0)

    def _printed(self, argv: Sequence[str]) -> str:
        if argv[0] == "systemctl" and checks.UNIT in argv:
            return "".join(f"{key}={value}\n" for key, value in self.unit.items())
        if argv[0] == "systemctl":
            return f"Id=target.service\nActiveState={self.other_manager}\n"
        if "lvmconfig" in argv:
            return f"scan_lvs={self.scan_lvs}\nglobal_filter={self.global_filter}\n"
        rows = {"vgs": [self.group] if self.group else [], "lvs": [self.thin]}[argv[1]]
        return json.dumps({"report": [{argv[1]: rows}]})

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        modules = self.folder / "modules"
        for name in self.modules:
            (modules / name).mkdir(parents=True, exist_ok=True)

        def which(name: str, path: str) -> str | None:
            return f"/sbin/{name}" if name in self.programs else None

        library = SimpleNamespace(adjtimex=lambda _: self.clock)
        with ExitStack() as stack:
            for patched in (
                patch.object(process, "run", self.run),
                patch.object(checks, "MODULE_FOLDER", modules),
                patch.object(checks, "KERNEL_FOLDER", self.folder),
                patch.object(os.path, "ismount", lambda _: self.mounted),
                patch("shutil.which", which),
                patch("shutil.disk_usage", lambda _: SimpleNamespace(free=self.free_bytes)),
                patch("ctypes.CDLL", lambda _: library),
            ):
                stack.enter_context(patched)
            yield

    def look(self) -> list[Finding]:
        with self.standing_in():
            return checks.check_host(self.config)

    def wrong(self) -> list[tuple[str, str, str]]:
        return [
            (one.level, one.about, f"{one.what} -> {one.cure}")
            for one in self.look()
            if one.level not in (OK, SKIPPED)
        ]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_healthy_host_has_no_findings(machine: Machine) -> None:
    found = machine.look()
    assert {one.level for one in found} == {OK, SKIPPED}
    assert [one.about for one in found if one.level == SKIPPED] == ["certificates"]
    assert len(found) >= 10


@pytest.mark.parametrize(
    ("changes", "level", "about", "words"),
    [
        ({"unit": {"ActiveState": "failed"}}, ERROR, "unit", "systemctl start targetd"),
        (
            {"unit": {**UNIT, "UnitFileState": "disabled"}},
            WARNING,
            "unit",
            "systemctl enable targetd",
        ),
        ({"unit": {**UNIT, "NRestarts": "3"}}, WARNING, "unit", "3 times"),
        ({"other_manager": "active"}, ERROR, "managers", "disable --now target.service"),
        ({"modules": {*checks.MODULES}}, ERROR, "modules", "modprobe dm_thin_pool"),
        ({"mounted": False}, ERROR, "configfs", "sys-kernel-config.mount"),
        ({"scan_lvs": "1"}, ERROR, "lvm.conf", "set scan_lvs=0"),
        ({"scan_lvs": "1", "global_filter": "x"}, WARNING, "lvm.conf", "see that global_filter"),
        ({"group": None}, ERROR, "pools", "vgcreate storage DEVICE"),
        ({"group": {**GROUP, "vg_attr": "rz--n-"}}, ERROR, "pools", "read-only"),
        ({"group": {**GROUP, "vg_missing_pv_count": "1"}}, WARNING, "pools", "removemissing"),
        ({"thin": {**THIN, "zero": ""}}, ERROR, "pools", "lvchange --zero y storage/thin"),
        ({"thin": {**THIN, "data_percent": ""}}, ERROR, "pools", "not an active thin pool"),
        ({"programs": set()}, ERROR, "thin tools", "install thin-provisioning-tools"),
        ({"free_bytes": 1 << 20}, ERROR, "records", "1 MiB left"),
        ({"clock": checks.TIME_ERROR}, WARNING, "clock", "set-ntp"),
    ],
)
def test_each_fault_is_found_with_its_cure(
    machine: Machine, changes: dict[str, Any], level: str, about: str, words: str
) -> None:
    for name, value in changes.items():
        setattr(machine, name, value)
    found = machine.wrong()
    assert [(one[0], one[1]) for one in found][-1:] == [(level, about)], found
    assert words in found[-1][2]
    # Without its group a pool has nothing more to say.
    assert len(found) == 1


def test_keys_and_records_that_are_open_to_others(machine: Machine) -> None:
    machine.key.chmod(0o640)
    (found,) = machine.wrong()
    assert found[:2] == (ERROR, "host key") and "chmod 600" in found[2]
    machine.key.unlink()
    (found,) = machine.wrong()
    assert "restore it from the backup" in found[2]
    assert not machine.key.exists(), "looking makes nothing"


def test_an_open_state_directory(machine: Machine) -> None:
    machine.state.chmod(0o755)
    (found,) = machine.wrong()
    assert found[:2] == (ERROR, "records") and "chmod 700" in found[2]


def test_a_host_that_lvm_does_not_answer_on(machine: Machine) -> None:
    def run(argv: Sequence[str], timeout_seconds: float = 0.0) -> Completed:
        if argv[0] == "lvm":
            raise ProcessFailed(argv, 5, "no such thing")
        return Machine.run(machine, argv)

    with patch.object(machine, "run", run):
        found = machine.wrong()
    assert [one[1] for one in found] == ["lvm.conf", "pools"]


@pytest.mark.parametrize(
    ("valid", "level"),
    [
        (timedelta(days=365), OK),
        (timedelta(days=10), WARNING),
        (timedelta(minutes=-30), ERROR),
    ],
)
def test_certificates_that_end(machine: Machine, valid: timedelta, level: str) -> None:
    files = _with_tls(machine, datetime.now(UTC) + valid)
    found = [one.level for one in machine.look() if one.about == "certificates"]
    assert found == [level, level]
    assert {one[1] for one in machine.wrong()} <= {"certificates"}
    files.key.chmod(0o644)
    assert ("configuration", True) in [
        (one[1], "open to others" in one[2]) for one in machine.wrong()
    ]


def test_what_the_configuration_warns_of(machine: Machine) -> None:
    files = _with_tls(machine, datetime.now(UTC) + timedelta(days=365))
    files.certificate.unlink()
    machine.config = replace(machine.config, portal_addresses=("192.0.2.1",))
    absent, unreadable = machine.wrong()
    assert absent[:2] == unreadable[:2] == (WARNING, "configuration")
    assert "this host has no address 192.0.2.1" in absent[2]
    assert f"{files.certificate} cannot be read" in unreadable[2]


def _with_tls(machine: Machine, until: datetime) -> TlsConfig:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, until)
    files = TlsConfig(*(machine.folder / name for name in ("certificate", "key", "ca")))
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    contents = {files.certificate: certificate, files.key: plain, files.client_ca: certificate}
    for path, content in contents.items():
        path.write_bytes(content)
        path.chmod(0o600)
    machine.config = replace(machine.config, tls=files, listen="127.0.0.1:7788")
    return files


def _certificate(key: ec.EllipticCurvePrivateKey, until: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "storage")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    valid = made.not_valid_before(until - timedelta(days=400)).not_valid_after(until)
    return valid.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_findings_are_from_the_daemons_answers() -> None:
    volume_id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
    pool = volume_pb2.Pool(name="thin", volume_group="storage", thin_pool="thin", total_bytes=1)
    stuck = volume_pb2.Volume(volume_id=volume_id, state=volume_pb2.VOLUME_STATE_DETACHING)
    failed = host_pb2.OPERATION_STATE_FAILED
    cases: list[tuple[Present, list[volume_pb2.Pool], str, str]] = [
        (Present(volumes=[stuck]), [], WARNING, "a revocation has begun"),
        (
            Present(volumes=[volume_pb2.Volume(state=volume_pb2.VOLUME_STATE_DEGRADED)]),
            [],
            ERROR,
            "is degraded",
        ),
        (
            Present(operations=[host_pb2.Operation(state=failed, error="it failed")]),
            [],
            ERROR,
            "it failed",
        ),
        (Present(snapshots=[volume_pb2.Snapshot(overflowed=True)]), [], ERROR, "lost its content"),
        (Present(snapshots=[volume_pb2.Snapshot(used_percent=90)]), [], WARNING, "90 % full"),
        (Present(), [_with(pool, data_percent=85.0)], WARNING, "data space is 85 % full"),
        (Present(), [_with(pool, metadata_percent=96.0)], ERROR, "metadata space is 96 % full"),
        (
            Present(),
            [_with(pool, vg_metadata_total_bytes=100, vg_metadata_free_bytes=10)],
            WARNING,
            "LVM's metadata area is 90 % full",
        ),
        (
            Present(connections=[export_pb2.Connection(state=export_pb2.CONNECTION_STATE_GRANTED)]),
            [],
            "",
            "not looked at yet",
        ),
    ]
    client = SimpleNamespace(health=lambda: "SERVING")
    (only,) = findings.of_daemon(client, Present(connections=[_without_access()]), [])  # type: ignore[arg-type]
    assert "LVM has no such volume" in only.what and "lunctl connection remove" in only.cure
    attached = Present(volumes=[volume_pb2.Volume()], connections=[_without_access()])
    (only,) = findings.of_daemon(client, attached, [])  # type: ignore[arg-type]
    assert only.what.endswith("no access in the kernel") and "lunctl reconcile" in only.cure
    for state, pools, level, words in cases:
        found = findings.of_daemon(client, state, pools)  # type: ignore[arg-type]
        assert [one.level for one in found] == ([level] if level else []), words
        assert not found or words in found[0].what
    unwell = SimpleNamespace(health=lambda: "NOT_SERVING")
    (only,) = findings.of_daemon(unwell, Present(), [])  # type: ignore[arg-type]
    assert only.level == ERROR and "NOT_SERVING" in only.what


def _without_access() -> export_pb2.Connection:
    one = export_pb2.Connection(state=export_pb2.CONNECTION_STATE_GRANTED)
    one.observe_time.GetCurrentTime()
    return one


def _with(pool: volume_pb2.Pool, **values: Any) -> volume_pb2.Pool:
    changed = volume_pb2.Pool()
    changed.CopyFrom(pool)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


# The command


CONFIGURATION = """\
state_directory = "{state}"
[[pool]]
name = "thick"
volume_group = "storage"
[[pool]]
name = "thin"
volume_group = "storage"
thin_pool = "thin"
"""


@pytest.fixture
def lunctl(simulated_backing: SimulatedBacking) -> Lunctl:
    return Lunctl(simulated_backing.endpoint)


def test_doctor_on_a_host(
    lunctl: Lunctl, machine: Machine, simulated_backing: SimulatedBacking
) -> None:
    path = machine.folder / "targetd.toml"
    path.write_text(CONFIGURATION.format(state=machine.state))
    doctor = ("doctor", "--config", str(path))
    with machine.standing_in(), patch("os.geteuid", lambda: 0):
        assert "\n0 to look at, " in lunctl.run(*doctor).stdout
        machine.thin["zero"] = ""
        shown = lunctl.run(*doctor, status=1).stdout
        assert shown.startswith("error: thin pool storage/thin does not zero new blocks")
        assert "\n1 to look at, " in shown
        listed = lunctl.json(*doctor, status=1)["findings"]
        assert [one["about"] for one in listed if one["level"] == ERROR] == ["pools"]
        path.write_text("pools = 1\n")
        assert "error: " in lunctl.run(*doctor, status=1).stdout
    with patch("os.geteuid", lambda: 1000):
        assert "needs root" in lunctl.run(*doctor).stdout


def test_doctor_when_the_daemon_does_not_answer(lunctl: Lunctl) -> None:
    with patch("os.geteuid", lambda: 1000):
        shown = lunctl.run("doctor", "--endpoint", "unix:/nowhere/s", status=1).stdout
    assert "error: /nowhere/s: there is no such socket\n    Does the daemon run?" in shown


def test_doctor_sees_that_nothing_listens(
    lunctl: Lunctl, simulated_backing: SimulatedBacking
) -> None:
    host = Host(simulated_backing)
    host.attach(host.create())
    host.close()
    with patch("os.geteuid", lambda: 1000):
        shown = lunctl.run("doctor", status=1).stdout
    assert "nothing listens on 192.0.2.1:3260" in shown and "lunctl reconcile" in shown
