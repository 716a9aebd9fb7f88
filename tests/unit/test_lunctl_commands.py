"""Each command of lunctl, for people and as JSON, against a daemon on simulated engines."""

from __future__ import annotations

import json
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from targetd.lunctl.human import size
from targetd.server import convert
from tests.hosts import MEBIBYTE, Host, SimulatedBacking, properties_of
from tests.lunctl import Lunctl

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
IQN = "iqn.2026-01.org.example.lab:a"
STRANGER = "iqn.2026-01.org.example.lab:stranger"


@pytest.fixture
def host(simulated_backing: SimulatedBacking) -> Iterator[Host]:
    made = Host(simulated_backing)
    yield made
    simulated_backing.lvm.may_step.set()
    made.close()


@pytest.fixture
def lunctl(host: Host) -> Lunctl:
    return Lunctl(host.backing.endpoint)


def _log_in(backing: SimulatedBacking, host: Host, volume_id: str) -> None:
    assert backing.log_in("a", properties_of(host.attach(volume_id)))


def test_the_life_of_a_volume(lunctl: Lunctl) -> None:
    made = lunctl.run("volume", "create", "--size", "16MiB", "--pool", "thick").stdout
    match = UUID.search(made)
    assert match and "available" in made
    volume_id = match[0]
    assert f"{volume_id}  16 MiB  available  thick" in lunctl.run("volume", "list").stdout
    assert volume_id not in lunctl.run("volume", "list", "--pool", "thin").stdout
    shown = lunctl.json("volume", "show", volume_id)
    assert shown["size_bytes"] == 16 * MEBIBYTE and shown["state"] == "VOLUME_STATE_AVAILABLE"
    assert "32 MiB" in lunctl.run("volume", "extend", volume_id, "--size", "32MiB").stdout
    (listed,) = lunctl.json("volume", "list")["volumes"]
    assert listed == lunctl.json("volume", "show", volume_id)
    deleted = lunctl.run("volume", "delete", volume_id, "--yes", "--wait")
    assert "deleted, and its data wiped" in deleted.stdout and "wipe" in deleted.stderr
    again = lunctl.json("volume", "delete", volume_id, "--yes")
    assert again == {"volume_id": volume_id, "existed": False, "operation_id": ""}
    assert "There are no volumes" in lunctl.run("volume", "list").stderr
    assert lunctl.json("volume", "list") == {"volumes": []}


def test_the_same_id_again_is_a_repetition(lunctl: Lunctl) -> None:
    volume_id = str(uuid.uuid4())
    create = ("volume", "create", volume_id, "--size", "16M", "--pool", "thin")
    assert lunctl.json(*create) == lunctl.json(*create)
    assert len(lunctl.json("volume", "list")["volumes"]) == 1


def test_lists_of_several_pages(lunctl: Lunctl, host: Host) -> None:
    volume_ids = {host.create() for _ in range(5)}
    with patch.object(convert, "PAGE_SIZE_MAX", 2):
        listed = lunctl.json("volume", "list")["volumes"]
    assert len(listed) == 5 and {one["volume_id"] for one in listed} == volume_ids


def test_a_delete_asks_first(lunctl: Lunctl, host: Host) -> None:
    volume_id = host.create()
    assert "say --yes" in lunctl.run("volume", "delete", volume_id, status=2).stderr
    status, written = lunctl.on_terminal(80, "volume", "delete", volume_id, typed="n\n")
    assert status == 1 and "16 MiB in pool thin" in written and "nothing was done" in written
    lunctl.run("volume", "show", volume_id)
    status, _ = lunctl.on_terminal(80, "volume", "delete", volume_id, typed="y\n")
    assert status == 0
    lunctl.run("volume", "show", volume_id, status=3)


def test_a_copy_takes_its_sources_size_and_is_waited_for(lunctl: Lunctl, host: Host) -> None:
    origin = host.create("thick")
    create = ("volume", "create", "--from-volume", origin, "--pool", "thick", "--wait")
    done = lunctl.run(*create, "--json")
    made = json.loads(done.stdout)
    assert made["state"] == "VOLUME_STATE_AVAILABLE" and made["size_bytes"] == 16 * MEBIBYTE
    assert made["source_volume_id"] == origin
    assert "copy" in done.stderr, "how far it is, is told beside the answer"
    snapshot_id = lunctl.json("snapshot", "create", origin)["snapshot_id"]
    made = lunctl.json("volume", "create", "--from-snapshot", snapshot_id, "--pool", "thin")
    assert made["size_bytes"] == 16 * MEBIBYTE


def test_adoption_and_release(lunctl: Lunctl, host: Host) -> None:
    host.backing.make_foreign("data", 16 * MEBIBYTE)
    volume_id = lunctl.json("volume", "adopt", "data", "--pool", "thick")["volume_id"]
    released = lunctl.run("volume", "release", volume_id, "--name", "data").stdout
    assert "its data stays in /dev/storage/data" in released
    assert "was not there" in lunctl.run("volume", "release", volume_id).stdout


def test_snapshots(lunctl: Lunctl, host: Host) -> None:
    volume_id = host.create("thick")
    made = lunctl.json("snapshot", "create", volume_id, "--reserve", "8MiB")
    snapshot_id = made["snapshot_id"]
    assert made["reserved_bytes"] == 8 * MEBIBYTE
    listed = lunctl.run("snapshot", "list", "--volume", volume_id).stdout
    assert f"{snapshot_id}  {volume_id}  16 MiB" in listed
    assert lunctl.json("snapshot", "list") == {"snapshots": [made]}
    assert "8 MiB" in lunctl.run("snapshot", "show", snapshot_id).stdout
    assert lunctl.json("snapshot", "delete", snapshot_id, "--yes", "--wait")["existed"]
    assert not lunctl.json("snapshot", "delete", snapshot_id, "--yes")["existed"]


def test_pools(lunctl: Lunctl, host: Host) -> None:
    host.create("thick", 1536 * MEBIBYTE)
    listed = lunctl.run("pool", "list").stdout
    assert re.search(r"thick +thick +storage +3 GiB +50 % +1.5 GiB", listed)
    assert [pool["name"] for pool in lunctl.json("pool", "list")["pools"]] == ["thick", "thin"]
    # Not on a terminal of UTF-8: characters that every output has.
    assert re.search(
        r"Used: +(█{10}░{10}|#{10}-{10}) 50 %", lunctl.run("pool", "show", "thick").stdout
    )
    assert lunctl.json("pool", "show", "thin")["thin_pool"] == "thin"


def test_exports(lunctl: Lunctl, host: Host) -> None:
    volume_id = host.create()
    assert volume_id in lunctl.run("export", "create", volume_id).stdout
    listed = lunctl.run("export", "list").stdout
    assert f"iqn.2026-11.org.targetd:{volume_id}" in listed and "192.0.2.1:3260" in listed
    assert lunctl.json("export", "list")["exports"] == [lunctl.json("export", "show", volume_id)]
    assert "is not exported" in lunctl.run("export", "remove", volume_id).stdout
    assert lunctl.json("export", "list") == {"exports": []}


def test_a_connection_without_its_secret(lunctl: Lunctl, host: Host, tmp_path: Path) -> None:
    volume_id = host.create()
    lunctl.run("export", "create", volume_id)
    create = ("connection", "create", volume_id, "--initiator", IQN, "--host", "a", "--mutual-chap")
    shown = lunctl.json(*create, "--show-secret")
    secrets = (shown["auth_password"], shown["mutual_auth_password"])
    assert all(len(secret) == 16 for secret in secrets)
    file = tmp_path / "properties"
    # The daemon, here in the same process, has set a strict one.
    os.umask(0o022)
    for done in (
        lunctl.run(*create),
        lunctl.run(*create, "--json"),
        lunctl.run(*create, "--secret-file", str(file)),
    ):
        assert "***" in done.stdout
        assert not any(secret in done.output for secret in secrets)
    assert json.loads(file.read_text()) == shown
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    refused = lunctl.run(*create, "--secret-file", str(file), status=2)
    assert "cannot be made" in refused.stderr
    assert secrets[0] in lunctl.run(*create, "--show-secret").stdout


def test_no_secret_file_is_left_of_a_refusal(lunctl: Lunctl, host: Host, tmp_path: Path) -> None:
    file = tmp_path / "properties"
    create = ("connection", "create", host.create(), "--initiator", IQN)
    lunctl.run(*create, "--secret-file", str(file), status=3)
    assert not file.exists()


def test_connections(lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking) -> None:
    volume_id = host.create()
    _log_in(simulated_backing, host, volume_id)
    shown = lunctl.run("connection", "show", volume_id, "attachment-a").stdout
    assert "logged in" in shown and "192.0.2.1" in shown
    listed = lunctl.run("connection", "list", "--volume", volume_id).stdout
    assert f"{volume_id}  attachment-a  a" in listed
    assert lunctl.json("connection", "list")["connections"][0]["initiator"] == IQN
    assert f"{volume_id}  attachment-a  192.0.2.1" in lunctl.run("session", "list").stdout
    assert lunctl.json("session", "list")["sessions"][0]["attachment_ids"] == ["attachment-a"]
    remove = ("connection", "remove", volume_id)
    refused = lunctl.error(*remove, "attachment-a", status=5)
    assert refused["reason"] == "LOGGED_IN", "a live session is not closed by the way"
    lunctl.run(*remove, status=2)
    closed = lunctl.json(*remove, "--initiator", IQN, "--close-session")
    assert closed["sessions_closed"] and not closed["shared"]
    assert "the access is gone" in lunctl.run(*remove, "--all").stdout


def test_operations(lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking) -> None:
    simulated_backing.lvm.may_step.clear()
    volume_id = host.create("thick")
    deleted = lunctl.run("volume", "delete", volume_id, "--yes")
    assert "operation watch" in deleted.stderr
    (listed,) = lunctl.json("operation", "list")["operations"]
    operation_id = listed["operation_id"]
    assert re.search(f"{operation_id} +wipe +running +0 %", lunctl.run("operation", "list").stdout)
    why = lunctl.run("why", volume_id).stdout
    assert "it was deleted" in why and operation_id in why
    simulated_backing.lvm.may_step.set()
    assert "done, 100 %" in lunctl.run("operation", "watch", operation_id).stdout
    assert "100 %" in lunctl.run("operation", "show", operation_id).stdout
    lines = lunctl.run("operation", "watch", operation_id, "--json").stdout.splitlines()
    assert json.loads(lines[-1])["state"] == "OPERATION_STATE_DONE"
    assert lunctl.json("operation", "list") == {"operations": []}


def test_host(lunctl: Lunctl) -> None:
    assert "192.0.2.1:3260" in lunctl.run("host").stdout
    assert lunctl.json("host")["iqn_prefix"] == "iqn.2026-11.org.targetd"


def test_reconcile(lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    assert "1 export checked, 0 differences" in lunctl.run("reconcile").stdout
    (iqn,) = simulated_backing.lio.targets()
    simulated_backing.lio.remove_acl(iqn, IQN)
    done = lunctl.run("reconcile", volume_id).stdout
    assert f"acl {IQN}" in done and "1 difference found, all put right" in done
    assert lunctl.json("reconcile") == {
        "exports_checked": 1,
        "drifts": [],
        "degraded_volume_ids": [],
    }


def test_status(lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking) -> None:
    shown = lunctl.run("status").stdout
    assert "nothing is wrong" in shown and "nobody" in shown
    host.create("thick", 2600 * MEBIBYTE)
    _log_in(simulated_backing, host, host.create())
    shown = lunctl.run("status").stdout
    assert shown.index("warning: pool thick: its space is 85 % full") < shown.index("Pools")
    assert "2 volumes (2 available), 0 snapshots, 1 exported" in shown
    assert "1 attachment" in shown
    found = lunctl.json("status")
    assert [finding["about"] for finding in found["findings"]] == ["pool"]
    assert len(found["volumes"]) == 2 and len(found["connections"]) == 1


def test_a_session_without_attachment_is_an_alarm(
    lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking
) -> None:
    volume_id = host.create()
    properties = properties_of(host.attach(volume_id))
    lio, iqn = simulated_backing.lio, properties["target_iqn"]
    own = lio.acls(iqn)
    assert own == [IQN]
    # As if somebody had made an ACL with targetcli.
    target = lio._host.targets[iqn]
    target.acls[STRANGER] = target.acls[IQN]
    user, password = properties["auth_username"], properties["auth_password"]
    assert lio.log_in(iqn, STRANGER, user, password) and lio.log_in(iqn, IQN, user, password)
    said = f"{STRANGER} is logged in"
    end = time.monotonic() + 30
    # Lists know of it when it was next looked for.
    while said not in lunctl.run("status").stdout:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert said in lunctl.run("why", volume_id).stdout
    assert f"{IQN} is logged in" not in lunctl.run("status").stdout
    assert "no attachment" in lunctl.run("session", "list").stdout


def test_why_says_what_to_do_next(lunctl: Lunctl, host: Host) -> None:
    volume_id = host.create("thick")
    assert f"lunctl export create {volume_id}" in lunctl.run("why", volume_id).stdout
    host.snapshot(volume_id)
    host.attach(volume_id)
    shown = lunctl.run("why", volume_id).stdout
    assert "a by attachment attachment-a (read-write): not logged in" in shown
    assert f"lunctl connection remove {volume_id} attachment-a" in shown
    assert "deleting and growing it: snapshot" in shown
    # What it names, in the order in which it names it, lets the volume go.
    for line in re.findall(r"^ +lunctl (.*)$", shown, re.MULTILINE):
        words = line.split()
        lunctl.run(*words, *(["--yes"] if words[1] == "delete" else []))
    lunctl.run("volume", "delete", volume_id, "--yes")


def test_why_a_volume_is_being_filled(
    lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking
) -> None:
    simulated_backing.lvm.may_step.clear()
    origin = host.create("thick")
    made = lunctl.json("volume", "create", "--from-volume", origin, "--pool", "thick")
    shown = lunctl.json("why", made["volume_id"])
    assert [reason["kind"] for reason in shown["reasons"]] == ["state", "work"]
    assert origin in shown["reasons"][0]["what"]
    assert shown["operations"][0]["operation_id"] == made["operation_id"]
    hinders = lunctl.json("why", origin)["reasons"][-1]
    assert made["volume_id"] in hinders["what"] and made["operation_id"] in hinders["next"]


def test_why_of_drift(lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    (iqn,) = simulated_backing.lio.targets()
    simulated_backing.lio.remove_acl(iqn, IQN)
    shown = lunctl.run("why", volume_id).stdout
    assert "no access: the kernel lacks what the records say" in shown
    assert f"lunctl reconcile {volume_id}" in shown


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("10GiB", 10 << 30),
        ("10g", 10 << 30),
        ("1.5 TiB", 3 << 39),
        ("10GB", 10**10),
        ("512B", 512),
        ("1.1TiB", 1209462790554),
    ],
)
def test_sizes(lunctl: Lunctl, text: str, bytes_: int) -> None:
    from targetd.lunctl.parameters import SIZE_TYPE

    assert SIZE_TYPE.convert(text, None, None) == bytes_


@pytest.mark.parametrize("text", ["10", "0GiB", "-1GiB", "GiB", "1e9B", "10GiBi", ""])
def test_sizes_without_meaning(lunctl: Lunctl, text: str) -> None:
    refused = lunctl.run("volume", "create", "--size", text, "--pool", "thin", status=2)
    assert "--size" in refused.stderr


def test_sizes_for_people() -> None:
    shown = [size(count) for count in (0, 1023, 1 << 30, 3 << 39, (10 << 30) + (40 << 20))]
    assert shown == ["0 B", "1023 B", "1 GiB", "1.5 TiB", "10.04 GiB"]


def test_options_stand_before_or_after_the_command(lunctl: Lunctl) -> None:
    before = lunctl.run("--json", "pool", "list").stdout
    assert json.loads(before) == lunctl.json("pool", "list")
    lunctl.run("pool", "list", "--endpoint", "unix:/nowhere", status=8)
    lunctl.run("--endpoint", "unix:/nowhere", "pool", "list", "--endpoint", lunctl.endpoint)
