"""attachd over real storage hosts, with real sessions: kills, cuts, dead hosts, failed attaches."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from attachd.config import IdentityKind
from lab.attach_client import AttachClient, Failed, NoAnswer, wait_until
from lab.attach_slots import Held, Peer, Slot, Stage
from lab.attach_soak import Fault, Storm
from lab.attach_verify import Verifier
from lab.attachd import AttachmentManager
from lab.errors import CommandFailed, LabError, LoginRefused
from lab.initiator import Initiator
from lab.lab import Lab
from lab.node import Spec
from lab.storage import TARGETS, StorageHost, spec
from targetd.tls_authority import Authority
from tests.lab.live import live_io

pytestmark = pytest.mark.lab

# So that a storage host which says nothing is given up soon.
SETTINGS = """\
host_timeout_seconds = 5
reconcile_seconds = 10
"""
# What is shown of attachd's log when a storm ends early.
LOG_MAX = 100_000
# Between two writes to what is in use.
PAUSE_SECONDS = 0.02
# Attaches and detaches on one storage host, while another is waited for that is dead.
ROUNDS_MIN = 3

Result = TypeVar("Result")


def connector(initiator: Initiator) -> dict[str, Any]:
    return Peer(initiator).connector


@dataclass
class Site:
    """attachd, two storage hosts, two attaching hosts."""

    lab: Lab
    manager: AttachmentManager
    client: AttachClient
    storage: Mapping[str, StorageHost]
    a: Initiator
    b: Initiator
    volumes: list[str] = field(default_factory=list)

    def volume(self, host: str | None = "one", *, multiattach: bool = False) -> str:
        """A new one; deleted, with its attachments, when the test ends."""
        place = f"{host}#thin" if host else None
        made = self.client.create_volume(multiattach=multiattach, place=place)
        self.volumes.append(made)
        return made

    def zone(self, volume_id: str) -> str:
        """Its storage host."""
        return str(self.client.volume(volume_id)["availability_zone"])

    def attached(self, volume_id: str, initiator: Initiator, mode: str = "rw") -> Held:
        """Completed, and not logged in."""
        peer = Peer(initiator)
        made = self.client.create(volume_id, connector=peer.connector, mode=mode)
        self.client.complete(made["id"])
        return Held(made["id"], Stage.ATTACHED, mode, peer, made["connection_info"])

    @contextmanager
    def in_use(self, volume_id: str, initiator: Initiator) -> Iterator[Held]:
        """Attached, and written to all the while without an error."""
        held = self.attached(volume_id, initiator)
        assert held.peer is not None and held.info is not None
        disk = held.peer.log_in(held.info)
        try:
            with live_io(initiator, disk, PAUSE_SECONDS):
                yield replace(held, logged_in=True)
        finally:
            held.peer.log_out(held.info)

    def call(self, method: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """As another client's, from a thread of its own."""
        with closing(AttachClient.in_lab(self.lab.network, self.manager)) as client:
            return method(client, *arguments, **named)

    @contextmanager
    def hanging(self, host: str) -> Iterator[None]:
        """Inside the block the host's daemon takes calls, and answers none."""
        signal = ["systemctl", "kill", "--kill-whom=main", "targetd", "--signal"]
        node = self.storage[host].node
        node.run([*signal, "STOP"])
        try:
            yield
        finally:
            node.run([*signal, "CONT"])

    def acls(self, target: str) -> set[str]:
        """The initiators that the kernel of storage host "one" lets in. No session is without."""
        path = f"{TARGETS}/{target}/tpgt_1/acls"
        return set(self.storage["one"].node.run(["ls", path]).stdout.split())

    def problems(self) -> list[str]:
        return Verifier(self.manager, self.storage).problems()

    def clean(self) -> None:
        """What a test has left must be such that it can be deleted."""
        for volume_id in self.volumes:
            for one in self.client.attachments(volume_id=volume_id):
                self.client.delete(one["id"])
            self.client.delete_volume(volume_id)
        self.volumes.clear()
        assert self.problems() == []
        for host in self.storage.values():
            assert host.targets() == []


def _start(host: StorageHost) -> None:
    host.prepare_disks()
    host.install()
    host.start()


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    names = ("one", "two")
    folder = Path("build/lab").absolute()
    with Lab(folder, [*map(spec, names), Spec("a"), Spec("b")]) as lab, ExitStack() as stack:
        authority = Authority.new("storage hosts of the lab")
        storage = {name: StorageHost(lab[name], authority=authority) for name in names}
        for host in storage.values():
            stack.callback(host.close)
        a, b = Initiator(lab["a"]), Initiator(lab["b"])
        with ThreadPoolExecutor() as threads:
            list(threads.map(_start, storage.values()))
            list(threads.map(Initiator.start, (a, b)))
        manager = AttachmentManager(lab, storage, IdentityKind.NOAUTH)
        stack.callback(manager.close)
        text = manager.configuration.read_text(encoding="utf-8")
        manager.configuration.write_text(SETTINGS + text, encoding="utf-8")
        manager.start()
        client = stack.enter_context(closing(AttachClient.in_lab(lab.network, manager)))
        yield Site(lab, manager, client, storage, a, b)


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    yield module_site
    module_site.clean()


# Of CPython 3.11: a socket whose other side has gone before TLS begins is not closed by what
# refuses to wrap it.
KILLED = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)


@KILLED
def test_a_storm_with_kills_of_both_daemons(site: Site) -> None:
    faults = [Fault.ATTACHD] * 3 + [Fault.TARGETD] * 2 + [Fault.BOTH]
    storm = _storm(site, faults, acknowledged=250)
    assert storm.tally.logins > 0
    assert storm.tally.failed >= len(faults), "else the daemons were killed at rest"


def test_a_storm_while_attachd_and_the_storage_host_do_not_reach_each_other(site: Site) -> None:
    faults = [Fault.REQUESTS, Fault.ANSWERS]
    storm = _storm(site, faults, acknowledged=100, workers=3)
    # Each was answered, and settled after the cut.
    cut_off = " ".join(storm.tally.cut_off)
    assert ", 504:" in cut_off and ", no answer:" not in cut_off


def _storm(site: Site, faults: list[Fault], acknowledged: int, **options: int) -> Storm:
    """While others come and go, what is attached and not touched has no error."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    shared = (site.volume(multiattach=True), site.volume(multiattach=True))
    storm = Storm(
        site.lab,
        site.manager,
        site.storage["one"],
        site.client,
        (site.a, site.b),
        shared,
        seed,
        **options,
    )
    site.volumes += storm.volumes
    untouched = {shared[0]: site.a, site.volume(): site.b}
    with ExitStack() as stack:
        live = [
            Slot(volume_id, [], held=stack.enter_context(site.in_use(volume_id, initiator)))
            for volume_id, initiator in untouched.items()
        ]
        try:
            storm.run(acknowledged, faults, print)
        except LabError:
            print(site.manager.log.read_text(encoding="utf-8", errors="replace")[-LOG_MAX:])
            raise
        finally:
            print(storm.table())
        started = time.monotonic()
        assert storm.problems(Verifier(site.manager, site.storage), live) == []
        print(f"compared in {time.monotonic() - started:.0f} s")
    assert storm.tally.total >= acknowledged
    return storm


# A killed attachd


def test_what_a_killed_attachd_was_at_work_on_is_free_when_it_is_back(site: Site) -> None:
    volume_id = site.volume()
    with ThreadPoolExecutor(1) as threads, site.hanging("one"):
        begun = threads.submit(
            site.call, AttachClient.create, volume_id, connector=connector(site.a)
        )
        wait_until(
            lambda: (
                [one["status"] for one in site.client.attachments(volume_id=volume_id)]
                == ["attaching"]
            ),
            "the attach has begun",
        )
        site.manager.kill()
        with pytest.raises(NoAnswer):
            begun.result()
    site.manager.start()
    wait_until(lambda: not site.client.attachments(volume_id=volume_id), "it is undone")
    with site.in_use(volume_id, site.b):
        pass


# Failures beside live peers


def test_a_failed_attach_leaves_live_peers_alone(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    reader = site.attached(volume_id, site.b, "ro")
    reserved = site.client.create(volume_id)
    with site.in_use(volume_id, site.a) as writer:
        # The storage host has one access for each initiator, of one mode.
        with _refused(409, "storage host one"):
            site.client.create(volume_id, connector=connector(site.b), mode="rw")
        with _refused(400, "initiator"):
            site.client.create(volume_id, connector={"initiator": "not-one", "host": "c"})
        played = Peer(site.b, "iqn.2026-01.org.example.lab:played").connector
        with site.hanging("one"):
            with _refused(504, "not known"):
                site.client.create(volume_id, connector=played)
            with _refused(504, "not known"):
                site.client.update(reserved["id"], played)
        with _refused(409, writer.id):
            site.client.delete_volume(volume_id)
        assert site.problems() == []
        left = {one["id"]: one["status"] for one in site.client.attachments(volume_id=volume_id)}
    assert left == {writer.id: "attached", reader.id: "attached", reserved["id"]: "reserved"}


def test_moving_ends_the_old_session_before_the_new_access_is_given(site: Site) -> None:
    volume_id = site.volume(multiattach=True)
    reader = site.attached(volume_id, site.b, "ro")
    moved = site.attached(volume_id, site.a)
    assert moved.peer is not None and moved.info is not None
    moved.peer.log_in(moved.info)
    target = moved.info["target_iqn"]
    assert site.acls(target) == {site.a.name, site.b.name}
    # The new access is refused, as the old one has gone already.
    with _refused(409, "storage host one"):
        site.client.update(moved.id, connector(site.b))
    assert site.acls(target) == {site.b.name}
    assert site.client.attachment(moved.id)["status"] == "reserved"
    moved.peer.log_out(moved.info)
    with pytest.raises(LoginRefused):
        moved.peer.log_in(moved.info)
    site.client.delete(reader.id)
    given = site.client.update(moved.id, connector(site.b))["connection_info"]
    disk = site.b.login(given)
    with live_io(site.b, disk, PAUSE_SECONDS):
        assert site.acls(target) == {site.b.name}
    back = site.client.update(moved.id, connector(site.a))["connection_info"]
    assert site.acls(target) == {site.a.name}
    site.b.drop(given)
    site.a.login(back)
    site.a.logout(back)


def test_read_only_is_read_only_on_the_wire(site: Site) -> None:
    volume_id = site.volume()
    content = random.SystemRandom().randbytes(512)
    held = site.attached(volume_id, site.a)
    assert held.peer is not None and held.info is not None
    _write(site.a, held.peer.log_in(held.info), content)
    held.peer.log_out(held.info)
    site.client.delete(held.id)
    held = site.attached(volume_id, site.b, "ro")
    assert held.peer is not None and held.info is not None
    disk = held.peer.log_in(held.info)
    # Linux takes the target's word for it; one that does not is refused by the target.
    site.b.node.run(["blockdev", "--setrw", disk])
    with pytest.raises(CommandFailed):
        _write(site.b, disk, bytes(512))
    assert site.b.node.run(["dd", f"if={disk}", "bs=512", "count=1", "iflag=direct"]).out == content
    held.peer.log_out(held.info)


def _write(initiator: Initiator, disk: str, content: bytes) -> None:
    argv = ["dd", f"of={disk}", "bs=512", "count=1", "oflag=direct", "conv=notrunc,fsync"]
    initiator.node.run(argv, stdin=content)


# Two storage hosts


def test_new_volumes_go_where_there_is_room_and_not_to_a_drained_host(site: Site) -> None:
    spread = [site.volume(None) for _ in range(2)]
    zones = {site.zone(volume_id): volume_id for volume_id in spread}
    assert set(zones) == {"one", "two"}
    site.manager.command("host", "drain", "two")
    try:
        assert site.zone(site.volume(None)) == "one"
        with site.in_use(zones["two"], site.a):
            pass
    finally:
        site.manager.command("host", "resume", "two")


def test_a_dead_host_delays_nobody_else_and_is_reconciled_when_it_is_back(site: Site) -> None:
    lasting, ending, beginning = (site.volume("two") for _ in range(3))
    other = site.volume("one")
    ended = site.attached(ending, site.b)
    with site.in_use(lasting, site.a), ThreadPoolExecutor(2) as threads:
        site.storage["two"].node.power_cut()
        waiting = [
            threads.submit(site.call, AttachClient.create, beginning, connector=connector(site.b)),
            threads.submit(site.call, AttachClient.delete, ended.id),
        ]
        rounds = 0
        while not any(future.done() for future in waiting):
            site.client.delete(site.attached(other, site.b).id)
            rounds += 1
        assert rounds >= ROUNDS_MIN
        for future in waiting:
            with _refused(504, "not known|did not say"):
                future.result()
        assert site.zone(site.volume(None)) == "one"
        site.storage["two"].boot()
        assert site.problems() == []
        for volume_id in (ending, beginning):
            assert site.client.attachments(volume_id=volume_id) == []
            assert site.client.volume(volume_id)["status"] == "available"
    with site.in_use(beginning, site.b):
        pass


@contextmanager
def _refused(code: int, words: str) -> Iterator[None]:
    with pytest.raises(Failed, match=words) as caught:
        yield
    assert caught.value.code == code
