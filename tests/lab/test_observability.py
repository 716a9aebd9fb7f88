"""Under a real systemd, kernel and LVM: fields in the journal, metrics, health, and no secret."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lab.errors import LoginRefused
from lab.storage import STATE_FOLDER, StorageHost
from targetd.api.v1 import export_pb2, host_pb2
from targetd.secretbox import PASSWORD_LENGTH
from targetd.server.serve import SERVICES, VOLUME_SERVICE
from tests.every_call import EveryCall
from tests.hosts import Host, LabBacking, properties_of

pytestmark = pytest.mark.lab

PORT = 9719
# All that runs, sampled; a program of LVM's takes a tenth of a second here.
SAMPLER = """
import glob, os, time
seen = set()
with open("/media/processes", "wb", buffering=0) as found:
    while not os.path.exists("/media/enough"):
        for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
            try:
                with open(path, "rb") as file:
                    text = file.read()
            except OSError:
                continue
            if text not in seen:
                seen.add(text)
                found.write(text.replace(b"\\0", b" ") + b"\\n")
        time.sleep(0.01)
"""
SCRAPE = f"""
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen("http://127.0.0.1:{PORT}/metrics").read())
"""
CORE = "/tmp/core-of-a-test"


@pytest.fixture
def storage(lab_backing: LabBacking) -> StorageHost:
    return lab_backing.storage


def until(what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.2)


@contextmanager
def observed(storage: StorageHost, *more: str) -> Iterator[None]:
    """The daemon says all it can, and serves metrics."""
    lines = ['log_level = "debug"', f'metrics_listen = "127.0.0.1:{PORT}"', *more]
    with storage.configured(('log_level = "info"', "\n".join(lines))):
        yield


@contextmanager
def processes(storage: StorageHost) -> Iterator[Path]:
    """Inside the block all command lines and environments are sampled."""
    enough = storage.node.share / "enough"
    enough.unlink(missing_ok=True)
    storage.node.start(["python3", "-c", SAMPLER])
    try:
        yield storage.node.share / "processes"
    finally:
        enough.touch()


def scrape(storage: StorageHost) -> str:
    return storage.written_by(["python3", "-c", SCRAPE])


def journal(storage: StorageHost) -> str:
    """Of all, with all fields."""
    return storage.written_by(["journalctl", "--all", "--no-pager", "--output=export"])


@pytest.mark.parametrize("chap", ["connection", "export"])
def test_no_secret_anywhere(
    lab_host: Host, lab_backing: LabBacking, storage: StorageHost, chap: str
) -> None:
    run, calls = storage.node.run, EveryCall(lab_host)
    with observed(storage, f'chap = "{chap}"'), processes(storage) as sampled:
        calls.run()
        # And with sessions, a wrong secret, a drift, and what is recorded now.
        volume_id = lab_host.create()
        given = properties_of(lab_host.attach(volume_id))
        calls.heard.secrets.add(given["auth_password"])
        assert lab_backing.log_in("a", given)
        lab_backing.log_out("a", given)
        assert not lab_backing.log_in("a", {**given, "auth_password": "another1secret12"})
        acl = (
            f"/sys/kernel/config/target/iscsi/{given['target_iqn']}/tpgt_1/acls/"
            f"{lab_backing.initiator('a')}"
        )
        run(["sh", "-c", 'printf x > "$1"', "sh", f"{acl}/auth/password"])
        answer = lab_host.hosts.Reconcile(host_pb2.ReconcileRequest())
        flight = lab_host.hosts.GetFlightRecord(host_pb2.GetFlightRecordRequest())
        texts = {
            "answers": " ".join(calls.heard.texts),
            "a reconcile": str(answer),
            "the flight record": str(flight),
            "the journal": journal(storage),
            "metrics": scrape(storage),
        }
        key = run(["base64", "--wrap=0", f"{STATE_FOLDER}/host.key"]).stdout
    texts["processes"] = sampled.read_bytes().decode(errors="replace")
    secrets = calls.heard.secrets
    # With the secret on its own command line, so not while these are sampled.
    recorded = {
        secret: run(["grep", "-rlF", secret, STATE_FOLDER], check=False).stdout
        for secret in secrets
    }
    assert len(secrets) >= 3 and all(len(secret) == PASSWORD_LENGTH for secret in secrets)
    for secret in (*secrets, key, base64.b64decode(key).hex()):
        found = [where for where, text in texts.items() if secret in text]
        assert not found
    assert set(recorded.values()) == {""}
    _was_looked_at(texts, volume_id)
    listed = run(["find", STATE_FOLDER, "-type", "f", "-perm", "/077"]).stdout
    assert listed == ""


def _was_looked_at(texts: dict[str, str], volume_id: str) -> None:
    """Where nothing was found there was something to look at."""
    assert "lvm lvcreate" in texts["processes"] and "targetd" in texts["processes"]
    assert f"VOLUME_ID={volume_id}" in texts["the journal"]
    assert "auth/password" in texts["the flight record"]
    assert "lvcreate" in texts["the flight record"]
    assert f'targetd_export_attachments{{volume_id="{volume_id}"}} 1.0' in texts["metrics"]
    assert "auth/password" in texts["a reconcile"]


def test_no_core_dump_even_for_a_program_that_asks(lab_host: Host, storage: StorageHost) -> None:
    run = storage.node.run
    lab_host.attach(lab_host.create())
    before = run(["cat", "/proc/sys/kernel/core_pattern"]).stdout.strip()
    # A limit of 0 does not count for a program that takes dumps.
    _write(storage, "/proc/sys/kernel/core_pattern", f"|/bin/dd of={CORE}")
    try:
        run(["python3", "-c", "import os; os.abort()"], check=False)
        until("the dump of another", lambda: _has(storage, CORE))
        run(["rm", CORE])
        pid = storage.main_pid()
        run(["systemctl", "kill", "--signal=ABRT", "--kill-whom=main", "targetd"])
        until("another daemon", lambda: storage.main_pid() not in (0, pid))
        assert storage.health() == "SERVING"
        assert not _has(storage, CORE)
    finally:
        _write(storage, "/proc/sys/kernel/core_pattern", before)


def _write(storage: StorageHost, path: str, text: str) -> None:
    storage.node.run(["sh", "-c", 'printf %s "$2" > "$1"', "sh", path, text])


def _has(storage: StorageHost, path: str) -> bool:
    return storage.node.run(["test", "-e", path], check=False).status == 0


def test_the_journal_has_what_a_record_is_about(lab_host: Host, storage: StorageHost) -> None:
    with observed(storage):
        volume_id = lab_host.create()
        text = storage.written_by(
            ["journalctl", "--unit=targetd", f"VOLUME_ID={volume_id}", "--output=json"]
        )
    (first, *_) = [
        record
        for record in map(json.loads, text.splitlines())
        if record["LOGGER"] == "targetd.engines.process" and "lvcreate" in record["MESSAGE"]
    ]
    assert first["PRIORITY"] == "7"
    assert first["SYSLOG_IDENTIFIER"] == "targetd"
    assert first["METHOD"] == "targetd.v1.VolumeService/CreateVolume"
    assert first["_SYSTEMD_UNIT"] == "targetd.service"
    assert first["CODE_FILE"].endswith("targetd/engines/process.py")


def test_the_kernel_is_counted(
    lab_host: Host, lab_backing: LabBacking, storage: StorageHost
) -> None:
    with observed(storage):
        volume_id = lab_host.create()
        given = properties_of(lab_host.attach(volume_id))
        initiator = lab_backing.initiators["a"]
        disk = initiator.log_in(given)
        initiator.node.run(["dd", "if=/dev/zero", f"of={disk}", "bs=1M", "count=4", "oflag=direct"])
        with pytest.raises(LoginRefused):
            # Another initiator with the right secret.
            lab_backing.initiators["b"].log_in(given)
        expected = (
            f'targetd_export_sessions{{volume_id="{volume_id}"}} 1.0',
            f'targetd_export_written_bytes_total{{volume_id="{volume_id}"}} 4.194304e+06',
            'targetd_login_failures_total{kind="authorization"} ',
            'targetd_lvm_command_seconds_count{command="lvcreate"} 1.0',
        )
        until("the figures", lambda: all(one in scrape(storage) for one in expected))
        lines = scrape(storage).splitlines()
        refused = [line for line in lines if line.startswith(expected[2])]
        assert float(refused[0].split()[1]) >= 1
        initiator.drop(given["target_iqn"])


def test_health_when_the_disk_of_volumes_or_of_records_fails(
    lab_host: Host, storage: StorageHost
) -> None:
    run = storage.node.run
    volume_id = lab_host.create()
    others = ["", *(service for service in SERVICES if service != VOLUME_SERVICE)]
    # LVM that cannot be run: no answer that is of use.
    # As the daemon sees it, which has a view of the file systems of its own.
    inside = ["nsenter", f"--target={storage.main_pid()}", "--mount"]
    run([*inside, "mount", "--bind", "/bin/false", "/sbin/lvm"])
    try:
        until("LVM is missed", lambda: says(lab_host, VOLUME_SERVICE) == "NOT_SERVING", 120)
        assert [says(lab_host, service) for service in others] == ["SERVING"] * len(others)
        # Attachments need no LVM.
        lab_host.attach(volume_id)
    finally:
        run([*inside, "umount", "/sbin/lvm"])
    until("LVM is back", lambda: says(lab_host, VOLUME_SERVICE) == "SERVING")
    run(["fsfreeze", "--freeze", STATE_FOLDER])
    try:
        until("the records are missed", lambda: says(lab_host, "") == "NOT_SERVING", 120)
    finally:
        run(["fsfreeze", "--unfreeze", STATE_FOLDER])
    until("the records are back", lambda: says(lab_host, "") == "SERVING")
    lab_host.exports.GetExport(export_pb2.GetExportRequest(volume_id=volume_id))


def says(host: Host, service: str) -> str:
    stub: health_pb2_grpc.HealthStub = health_pb2_grpc.HealthStub(host.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service))  # type: ignore[attr-defined]
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
