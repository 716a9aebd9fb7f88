"""What the guides for operators tell to do, done in their order on a host with the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from lab.errors import LoginRefused
from lab.initiator import Initiator
from lab.lab import Lab
from lab.node import Result, Spec
from targetd import __version__
from tests.conftest import LAB_FOLDER
from tests.hosts import MEBIBYTE
from tests.lab.conftest import LATER, prepare_for_packages
from tests.lab.disks import fill, same
from tests.pages import PAGES, Step, commands_in_sentences, steps

pytestmark = pytest.mark.lab

CONFIGURATION = "/etc/targetd/targetd.toml"
INSTALL = "apt-get install ./build/targetd_*.deb"
STEP_SECONDS_MAX = 300.0
SOON_SECONDS = 60.0
# What is not done here, and why.
EXEMPT = {
    "make install": "it fetches Python packages, and a node has no network: see test_package.py",
    "systemctl reload-or-restart nftables": "the nodes' kernel has no nftables; this machine's, in"
    " a namespace, is asked whether it takes the rules",
    "yaml": "it is Prometheus' configuration",
}
# Commands that stand in a sentence or a table, and in none of the steps: with what they need here.
IN_SENTENCES = {
    "journalctl OPERATION_ID=ID": "journalctl --quiet OPERATION_ID=ID",
    "journalctl INCIDENT=ID": "journalctl --quiet INCIDENT=ID",
    "ps -C lvm -o pid,stat,etime,args": "sleep 9 > /dev/null 2>&1 &"
    " ps -p $! -o pid,stat,etime,args",
    "dmsetup info | grep -B1 SUSPENDED": "lvcreate --yes --name scratch --size 4M storage"
    " && dmsetup suspend storage-scratch && dmsetup info | grep -B1 SUSPENDED"
    " && dmsetup resume storage-scratch",
    "dmsetup wipe_table --force DEVICE": "dmsetup wipe_table --force storage-scratch"
    " && lvremove --yes storage/scratch",
    "lvextend -L +SIZE GROUP/POOL": "lvextend -L +64M storage/thin",
    "lvextend --poolmetadatasize +256M GROUP/POOL": "lvextend --poolmetadatasize +256M"
    " storage/thin",
    "vgextend --metadatasize 64m GROUP DISK": "vgextend --metadatasize 64m storage /dev/ubdc",
    "pvchange --metadataignore y OLD_DISK": "pvchange --metadataignore y /dev/ubdb",
    "chmod 600": "chmod 600 /var/lib/targetd/host.key",
    "blockdev --getro /dev/DISK": "blockdev --getro /dev/DISK",
    "lvconvert --repair": "lvchange --activate n storage/thin"
    " && lvconvert --yes --repair storage/thin",
    "lvchange --activate y": "lvchange --activate y storage/thin",
    "lvchange --zero y": "lvchange --zero n storage/thin && lvchange --zero y storage/thin",
    "lunctl setup --root /tmp/targetd": "lunctl setup --root /tmp/targetd",
    "lunctl volume create --from-snapshot": "lunctl snapshot create VOLUME SNAPSHOT"
    " && lunctl volume create --from-snapshot SNAPSHOT --wait",
    "modprobe --all target_core_mod target_core_iblock iscsi_target_mod": "modprobe --all"
    " target_core_mod target_core_iblock iscsi_target_mod",
    "mount -t configfs configfs /sys/kernel/config": "umount --lazy /sys/kernel/config"
    " && mount -t configfs configfs /sys/kernel/config",
    "ss -ltnp": "ss -ltnp",
}
NOT_HERE = {
    "make deb": "the package that is installed here was made by it",
    "make uninstall": "test_package.py has it",
    "lunctl local-attach": "test_local_attach.py has it",
    "dmsetup message": "it is for devices of a kind that is not here",
}
# Ends with 1 where it has found something: nothing keeps a node's clock.
ALLOWED = {"lunctl doctor": (0, 1)}
UNKEPT = {"clock", "certificates"}
KEPT = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
GONE = "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"
REVOKED = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
SNAPSHOT = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
NEW = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"
LINE = b"kept over all of it\n"
FILLED_BYTES = 4 * MEBIBYTE
# Where LVM keeps the description of a group, behind the disk's label and the header.
METADATA_BYTES = slice(4096 + 512, MEBIBYTE)


class Site:
    """A storage host that is looked after by the book, and two hosts that attach."""

    def __init__(self, lab: Lab, packages: Path) -> None:
        self.node = lab["storage"]
        self.hosts = {name: Initiator(lab[name]) for name in "ab"}
        for host in self.hosts.values():
            host.start()
        self._packages = packages
        self.done: set[Step] = set()
        # What the reader puts in.
        self.values = {
            "192.0.2.10": self.node.address,
            "storage1.example.org": self.node.name,
            "USER": "games",
            "DISK": "ubdb",
            "VOLUME": KEPT,
            "GONE": GONE,
            "SNAPSHOT": SNAPSHOT,
            "IQN": self.hosts["a"].name,
        }
        self.has_package(__version__)
        prepare_for_packages(self.node)

    def has_package(self, version: str) -> None:
        (made,) = self._packages.glob(f"targetd_{version}_*.deb")
        folder = self.node.share / "build"
        folder.mkdir(exist_ok=True)
        shutil.copy(made, folder / "targetd_1.deb")

    def replace(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Another host with the disks of this one; on it is nothing but the backup."""
        self.run("rm -rf /media/backup && cp -r /root/backup /media/backup")
        self.node.power_off()
        meanwhile()
        self.node.boot()
        prepare_for_packages(self.node)
        for path in ("/etc/targetd", "/var/lib/targetd", "/usr/bin/lunctl"):
            assert self.node.run(["test", "-e", path], check=False).status == 1, path
        self.run("cp -r /media/backup /root/backup")

    def run(self, line: str, allowed: tuple[int, ...] = (0,)) -> Result:
        done = self.node.run(
            ["sh", "-c", line],
            # apt-get and pvck ask.
            stdin=b"y\ny\n",
            cwd="/media",
            timeout_seconds=STEP_SECONDS_MAX,
            check=False,
        )
        said = f"{line}: {done.status}\n{done.stdout}{done.stderr}"
        assert done.status in allowed, said
        assert "-- No entries --" not in done.stdout, said
        return done

    def json(self, line: str) -> Any:
        return json.loads(self.run(f"lunctl --json {line}", (0, 1)).stdout)

    def follow(
        self, page: str, section: str, before: Mapping[str, Callable[[], object]] | None = None
    ) -> dict[str, str]:
        """Do what the section says; ``before`` is what happens before some of its commands.

        Returns what each command printed.
        """
        wanted = [step for step in steps(page) if step.section == section]
        happens = dict(before or {})
        said = {}
        for step in wanted:
            happens.pop(step.text, lambda: None)()
            said[step.text] = self._do(step)
            self.done.add(step)
        assert not happens, f"{page} does not have them: {list(happens)}"
        assert wanted, f"{page}: {section}"
        return said

    def _do(self, step: Step) -> str:
        if step.text in EXEMPT or step.kind in EXEMPT:
            return ""
        text = self.filled_in(step.text)
        if step.kind == "toml":
            self._configure(text)
            return ""
        if step.kind == "nft":
            check = ["unshare", "--net", "nft", "--check", "--file", "-"]
            subprocess.run(check, input=text.encode(), check=True)
            return ""
        if step.kind == "ini":
            self._set_open_iscsi(text)
            return ""
        if text == "systemctl poweroff":
            self.replace()
            return ""
        done = self.run(text, ALLOWED.get(text, (0,)))
        return done.stdout + done.stderr

    def filled_in(self, text: str) -> str:
        for name, value in self.values.items():
            text = re.sub(rf"(?<![\w.]){re.escape(name)}\b", value, text)
        return text

    def _configure(self, text: str) -> None:
        there = self.node.read(CONFIGURATION).decode()
        # What is in no table stands before all tables.
        parts = [there, text] if text.startswith("[") else [text, there]
        self.node.write(CONFIGURATION, "\n\n".join(parts), mode="640")

    def _set_open_iscsi(self, line: str) -> None:
        """On an attaching host; open-iscsi takes it over into what it is told to log in to."""
        node, path, key = self.hosts["a"].node, "/etc/iscsi/iscsid.conf", line.split()[0]
        others = [one for one in node.read(path).decode().splitlines() if key not in one]
        node.write(path, "\n".join([*others, line, ""]), mode="600")
        run = node.run
        record = ["iscsiadm", "-m", "node", "-T", "iqn.2026-11.org.example:x", "-p", "192.0.2.1"]
        run([*record, "--op", "new"])
        assert line in run([*record, "--op", "show"]).stdout.splitlines()
        run([*record, "--op", "delete"])

    # What people do

    def create(self, volume_id: str) -> None:
        self.run(f"lunctl volume create {volume_id} --size 16MiB")
        self.run(f"lunctl export create {volume_id}")

    def grant(self, volume_id: str, host: str, options: str = "") -> dict[str, Any]:
        path = self.node.share / "secret.json"
        path.unlink(missing_ok=True)
        create = f"lunctl {options} connection create {volume_id}"
        self.run(f"{create} --initiator {self.hosts[host].name} --secret-file /media/secret.json")
        return properties(path)

    def connections(self) -> set[tuple[str, str]]:
        found = self.json("connection list")["connections"]
        return {(one["volume_id"], one["initiator"]) for one in found}

    def wrong(self) -> set[str]:
        """What doctor finds, but for what the lab itself lacks."""
        found = self.json("doctor")["findings"]
        wrong = {one["about"] for one in found if one["level"] in ("error", "warning")}
        return wrong - UNKEPT

    def as_client(self, name: str) -> str:
        files = "--tls-ca {0}/ca.pem --tls-certificate {0}/{1}.pem --tls-key {0}/{1}.key"
        return f"--endpoint storage:7788 {files.format('/root/authority', name)}"


def properties(path: Path) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return given


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def site(packages: Future[Path]) -> Iterator[Site]:
    storage = Spec("storage", (1 << 30, 1 << 30, 1 << 30), memory_mib=1024, systemd=True)
    with Lab(LAB_FOLDER, [storage, Spec("a"), Spec("b")]) as lab:
        yield Site(lab, packages.result())


def test_the_guides(site: Site) -> None:
    site.run(f"vgcreate storage /dev/ubda && {INSTALL}")
    site.follow("install.md", "Install")
    site.follow("install.md", "Configure")
    _secure(site)
    story = Story(site)
    site.follow("secure.md", "Who did what")
    site.follow("monitoring.md", "Log")
    story.back_up_and_restore()
    story.replace_the_host()
    story.begin_anew()
    _troubleshoot(site, story)
    _do_what_sentences_say(site)
    _upgrade_and_remove(site)
    told = {step for page in PAGES for step in steps(page)}
    exempt = {step for step in told if step.text in EXEMPT or step.kind in EXEMPT}
    assert told - site.done - exempt == set()


def _secure(site: Site) -> None:
    site.follow("secure.md", "On the host")
    site.follow("secure.md", "From other hosts")
    laptop, watcher = site.as_client("laptop"), site.as_client("watcher")
    site.run(f"lunctl {laptop} volume create {KEPT} --size 16MiB")
    not_allowed = (7,)
    site.run(f"lunctl {watcher} export create {KEPT}", not_allowed)
    site.follow("secure.md", "Shut a client out, or give it another role")
    wait_for(lambda: site.run(f"lunctl {laptop} host", (0, 7)).status == 7)
    site.run(f"lunctl {watcher} export create {KEPT}")
    old = site.node.read("/etc/targetd/server.pem")
    site.follow("secure.md", "New certificates in time")
    assert site.node.read("/etc/targetd/server.pem") != old
    site.run(f"lunctl {site.as_client('manager')} export list")
    site.follow("secure.md", "Network")


class Story:
    """A volume with data that host a is attached to, over all that happens to its storage."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.a, self.b = site.hosts["a"], site.hosts["b"]
        self.properties = site.grant(KEPT, "a", site.as_client("manager"))
        self.disk = self.a.log_in(self.properties)
        self.wwid = self.a.wwid(self.disk)
        fill(self.a.node, self.disk, LINE, FILLED_BYTES)
        for volume_id in (GONE, REVOKED):
            site.create(volume_id)
            site.grant(volume_id, "b")

    def back_up_and_restore(self) -> None:
        site = self.site
        site.follow("backup.md", "Back up")
        before = site.connections()
        self._go_on_without_backup()
        sessions = self.a.session_details()
        site.follow("backup.md", "Restore")
        assert site.connections() == before
        assert site.wrong() == {"connection"}, "the one to the volume that is gone"
        assert self.a.session_details() == sessions
        self._see_data()
        self._set_right()

    def _go_on_without_backup(self) -> None:
        run = self.site.run
        run(f"lunctl connection remove {REVOKED} --all")
        run(f"lunctl connection remove {GONE} --all && lunctl export remove {GONE}")
        run(f"lunctl volume delete {GONE} --yes --wait")
        self.site.create(NEW)
        self.b.log_in(given := self.site.grant(NEW, "b"))
        self._new = given

    def _set_right(self) -> None:
        self.site.values |= {"VOLUME": REVOKED, "IQN": self.b.name}
        self.site.follow("backup.md", "What was done after the backup")
        self.site.values |= {"VOLUME": KEPT, "IQN": self.a.name}
        assert self.site.connections() == {(KEPT, self.a.name)}
        assert self.site.wrong() == set()

    def replace_the_host(self) -> None:
        site = self.site
        self.b.drop(self._new)
        site.run("vgcfgbackup --file /root/backup/storage.vg storage")
        site.replace(self._damage)
        site.run("vgs storage", (5,))
        restore = "vgcfgrestore --file /root/backup/storage.vg storage"
        site.values["DISK"] = "ubda"
        remove = {restore: lambda: site.run("vgs storage && vgremove -ff --yes storage")}
        site.follow("backup.md", "LVM does not find the group", remove)
        site.values["DISK"] = "ubdb"
        export = {INSTALL: lambda: site.run("vgchange --activate n storage && vgexport storage")}
        said = site.follow("backup.md", "Replace a host", export)
        assert "volume group storage is exported; run: vgimport storage" in said[INSTALL]
        # The session has come back by itself.
        self._see_data()
        self.a.log_out(self.properties)
        self.disk = self.a.log_in(self.properties)
        assert (self.a.serial(self.disk), self.a.wwid(self.disk)) == (KEPT, self.wwid)
        self._see_data()
        self._set_right()

    def _damage(self) -> None:
        """As a power cut can leave it: the header points to what is not there."""
        with self.site.node.disk("disk0").open("r+b") as file:
            file.seek(METADATA_BYTES.start)
            file.write(bytes(METADATA_BYTES.stop - METADATA_BYTES.start))

    def begin_anew(self) -> None:
        said = self.site.follow("backup.md", "Without a backup")
        for volume_id in (KEPT, REVOKED, NEW):
            assert volume_id in said["lunctl volume list"]
        self.a.drop(self.properties)
        with pytest.raises(LoginRefused):
            self.a.log_in(self.properties)
        self.site.run(f"cp /root/{KEPT}.json /media/new.json")
        self.properties = properties(self.site.node.share / "new.json")
        self.disk = self.a.log_in(self.properties)
        assert (self.a.serial(self.disk), self.a.wwid(self.disk)) == (KEPT, self.wwid)
        self._see_data()

    def _see_data(self) -> None:
        state = f"/sys/block/{self.disk.removeprefix('/dev/')}/device/state"
        wait_for(lambda: self.a.node.read(state) == b"running\n")
        # From the target, not from memory.
        self.a.node.run(["blockdev", "--flushbufs", self.disk])
        assert same(self.a.node, self.disk, LINE, FILLED_BYTES)

    def hang(self) -> None:
        """The device is suspended under a session that reads, and access is taken away."""
        site = self.site
        site.run(f"dmsetup suspend --noflush --nolockfs {site.values['DEVICE']}")
        self.a.node.start(["dd", f"if={self.disk}", "of=/dev/null", "bs=4k", "iflag=direct"])
        inflight = f"/sys/block/{self.disk.removeprefix('/dev/')}/inflight"
        wait_for(lambda: self.a.node.read(inflight).split()[0] != b"0")
        late = (9,)
        site.run(f"lunctl --timeout 2 connection remove {KEPT} --all --close-session", late)


def _troubleshoot(site: Site, story: Story) -> None:
    (kept,) = [one for one in site.json("volume list")["volumes"] if one["volume_id"] == KEPT]
    site.values["DEVICE"] = kept["device_path"]

    def open_key() -> None:
        site.run("chmod 644 /var/lib/targetd/host.key && ! systemctl restart targetd")

    def close_key() -> None:
        site.run("chmod 600 /var/lib/targetd/host.key")

    site.follow("troubleshoot.md", "First")
    happens = {"journalctl -u targetd -n 20": open_key, "systemctl reset-failed targetd": close_key}
    said = site.follow("troubleshoot.md", "The daemon does not start", happens)
    assert "host.key is open to others; run: chmod 600" in said["journalctl -u targetd -n 20"]
    site.follow("troubleshoot.md", "A volume is degraded")
    site.follow("troubleshoot.md", "Somebody is logged in without attachment")
    site.follow("troubleshoot.md", "A host cannot log in")
    site.follow("troubleshoot.md", "An attach takes 15 seconds now and then")
    why = "lunctl why VOLUME"
    said = site.follow("troubleshoot.md", "A volume stays DETACHING", {why: story.hang})
    assert "a revocation has begun" in said[why]
    assert "SUSPENDED" in said["dmsetup info DEVICE"]
    wait_for(lambda: not site.connections())
    story.a.drop(story.properties)

    def make_thin_pool() -> None:
        site.run("lvcreate -y --type thin-pool --name thin --size 64M storage")

    extend = "lvextend --size +64M storage/thin"
    site.follow("troubleshoot.md", "A pool is full", {extend: make_thin_pool})
    site.follow("troubleshoot.md", "A call says INTERNAL")


def _do_what_sentences_say(site: Site) -> None:
    done = [step.text for page in PAGES for step in steps(page)]
    told = [command for page in PAGES for command in commands_in_sentences(page)]
    left = [one for one in told if not any(text.startswith(one) for text in done)]
    assert set(left) == IN_SENTENCES.keys() | NOT_HERE.keys()
    for line in IN_SENTENCES.values():
        site.run(site.filled_in(line))


def _upgrade_and_remove(site: Site) -> None:
    site.has_package(LATER)
    site.follow("install.md", "Upgrade")
    assert "targetd" in site.run("systemctl is-active targetd && dpkg -s targetd").stdout
    assert LATER in site.run("dpkg-query --show targetd").stdout
    site.follow("install.md", "Remove")
    assert site.node.run(["test", "-e", CONFIGURATION], check=False).status == 1
