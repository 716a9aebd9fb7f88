"""A volume as a disk of a host: the order of the steps, and what is taken back after each."""

from __future__ import annotations

import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from targetd_local import (
    AttachdError,
    DiskMissing,
    Interrupted,
    InUse,
    Invalid,
    LocalError,
    LoginFailed,
    ProgramFailed,
    Refused,
    Unreachable,
    WrongDisk,
    local,
)
from targetd_local.undo import Undo

from tests.local_host import HOST, INITIATOR, PORTALS, SECRET, FolderHost, target_of, wwid_of

VOLUME = str(uuid.uuid4())
BUSY = AttachdError("another operation is at work", 409)
LOST = Unreachable("no answer", sent=True)
REFUSED = 24


@pytest.fixture
def host(tmp_path: Path) -> FolderHost:
    return FolderHost(tmp_path)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("targetd_local.multipath.FLUSH_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("socket.gethostname", lambda: HOST)


def _steps(host: FolderHost) -> list[str]:
    """The log without what is only looked at, each line as its last words."""
    kept = (line for line in host.log if line != "list" and "show status" not in line)
    return [line.split()[-1] if line.startswith("iscsiadm") else line for line in kept]


def _called(line: str) -> str:
    return line.split()[0]


def test_an_attachment_is_completed_when_the_disk_is_there(host: FolderHost) -> None:
    attached = host.volumes.attach(VOLUME, mountpoint="/srv")
    assert _steps(host) == ["create", "new", "--login", "multipathd show config", "complete"]
    assert attached.disk.device == "/dev/sda"
    assert attached.disk.link == "/dev/disk/by-id/wwn-sda"
    assert [path.portal for path in attached.disk.paths] == [PORTALS[0]]
    assert attached.disk.wwid == wwid_of(VOLUME)
    (told,) = host.attachd.connectors
    assert told["initiator"] == INITIATOR and told["host"] == HOST and told["mountpoint"] == "/srv"
    assert told["do_local_attach"] and not told["multipath"] and not told["enforce_multipath"]
    (record,) = host.records
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert f"node.session.auth.password = {SECRET}\n" in record.read_text()
    assert "node.startup = manual\n" in record.read_text()
    assert not any(SECRET in line for line in host.log)


def test_the_same_again_is_the_same_disk(host: FolderHost) -> None:
    first = host.volumes.attach(VOLUME)
    host.log.clear()
    assert host.volumes.attach(VOLUME) == first
    assert _steps(host) == []


def test_all_portals_are_one_device(host: FolderHost) -> None:
    attached = host.volumes.attach(VOLUME, multipath=True)
    assert attached.disk.device == "/dev/mapper/mpatha" and attached.disk.multipath
    assert sorted(path.portal for path in attached.disk.paths) == list(PORTALS)
    assert attached.disk.missing == ()
    (told,) = host.attachd.connectors
    assert told["multipath"] and told["enforce_multipath"]
    assert host.volumes.attach(VOLUME, multipath=True) == attached
    host.log.clear()
    host.volumes.detach(VOLUME)
    assert _steps(host) == [
        "sync /dev/dm-0",
        "multipath -f mpatha",
        f"multipath -w {wwid_of(VOLUME)}",
        "--logout",
        "--logout",
        "delete",
        "delete",
    ]
    assert host.left() == []


def test_a_portal_that_is_down_is_told(host: FolderHost) -> None:
    host.programs.refuse = f"{PORTALS[0]} --login"
    attached = host.volumes.attach(VOLUME, multipath=True)
    assert [path.portal for path in attached.disk.paths] == [PORTALS[1]]
    (missing,) = attached.disk.missing
    assert PORTALS[0] in missing
    host.programs.refuse = ""
    again = host.volumes.attach(VOLUME, multipath=True).disk
    assert again.paths == attached.disk.paths and PORTALS[0] in again.missing[0]


def test_one_path_comes_by_the_first_portal_that_answers(host: FolderHost) -> None:
    host.programs.refuse = f"{PORTALS[0]} --login"
    attached = host.volumes.attach(VOLUME)
    assert [path.portal for path in attached.disk.paths] == [PORTALS[1]]


def _refused_login(host: FolderHost) -> None:
    host.programs.refuse, host.programs.status = "--login", REFUSED


def _no_record(host: FolderHost) -> None:
    host.programs.refuse = "--op new"


def _no_disk(host: FolderHost) -> None:
    # A disk that is not known by its serial yet is not there.
    host.kernel.serials[VOLUME] = ""


def _lying_disk(host: FolderHost) -> None:
    host.kernel.serials[VOLUME] = str(uuid.uuid4())


def _refused_create(host: FolderHost) -> None:
    host.attachd.instead["create"] = AttachdError("in use elsewhere", 409)


def _unanswered_create(host: FolderHost) -> None:
    host.attachd.after["create"] = LOST


def _refused_complete(host: FolderHost) -> None:
    host.attachd.instead["complete"] = AttachdError("not now", 409)


def _unanswered_complete(host: FolderHost) -> None:
    host.attachd.after["complete"] = LOST


def _stopped(host: FolderHost) -> None:
    host.programs.watch = lambda line: host.stop.set() if "--login" in line else None


def _stopped_at_last(host: FolderHost) -> None:
    host.programs.watch = lambda line: None
    told = host.kernel.wwid

    def wwid(disk: str) -> str:
        host.stop.set()
        return told(disk)

    host.kernel.wwid = wwid  # type: ignore[method-assign]


def _killed_by_hand(host: FolderHost) -> None:
    def interrupt(line: str) -> None:
        if "--login" in line:
            raise KeyboardInterrupt

    host.programs.watch = interrupt


FAILURES: list[tuple[Callable[[FolderHost], None], type[BaseException]]] = [
    (_refused_create, AttachdError),
    (_unanswered_create, Unreachable),
    (_no_record, LoginFailed),
    (_refused_login, LoginFailed),
    (_lying_disk, WrongDisk),
    (_refused_complete, AttachdError),
    (_unanswered_complete, Unreachable),
    (_stopped, Interrupted),
    (_stopped_at_last, Interrupted),
    (_killed_by_hand, KeyboardInterrupt),
]


@pytest.mark.parametrize("multipath", [False, True])
@pytest.mark.parametrize(("break_it", "kind"), [*FAILURES, (_no_disk, LocalError)])
def test_nothing_is_left_of_what_fails(
    host: FolderHost,
    break_it: Callable[[FolderHost], None],
    kind: type[BaseException],
    multipath: bool,
) -> None:
    break_it(host)
    with pytest.raises(kind) as caught:
        host.volumes.attach(VOLUME, multipath=multipath)
    assert getattr(caught.value, "left", []) == []
    assert host.left() == []
    # Access ends when nothing uses it any more, and not before.
    if "delete" in host.log:
        last = host.log.index("delete")
        assert not any("--logout" in line for line in host.log[last:])


def test_a_disk_that_does_not_come_is_no_login_failure(host: FolderHost) -> None:
    _no_disk(host)
    with pytest.raises(DiskMissing):
        host.volumes.attach(VOLUME, multipath=True)


def test_an_attachment_that_comes_late_is_withdrawn(host: FolderHost) -> None:
    """The answer was lost, and attachd had not even begun."""
    host.attachd.instead["create"] = LOST
    looks = iter(range(3))

    def late(call: str) -> None:
        if call == "list" and next(looks, None) == 2:
            host.attachd.add(VOLUME, status="attaching")

    with (
        patch.object(host.attachd, "_end", lambda call: None),
        patch.object(host.attachd, "_begin", _then(host.attachd._begin, late)),
        pytest.raises(Unreachable),
    ):
        host.volumes.attach(VOLUME)
    assert host.left() == []
    assert host.log.count("delete") == 1, "it did come"


def _then(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def both(call: str) -> None:
        first(call)
        second(call)

    return both


def test_a_request_that_was_never_sent_is_not_waited_for(host: FolderHost) -> None:
    host.attachd.instead["create"] = Unreachable("connection refused", sent=False)
    with pytest.raises(Unreachable):
        host.volumes.attach(VOLUME)
    assert host.log.count("list") == 2


def test_what_cannot_be_undone_is_named(host: FolderHost) -> None:
    host.attachd.instead["complete"] = AttachdError("not now", 409)
    host.programs.refuse = "--logout"
    with pytest.raises(AttachdError) as caught:
        host.volumes.attach(VOLUME)
    (left,) = caught.value.left
    assert left.startswith("disk: ") and "--logout" in left
    assert caught.value.__notes__ == [f"not undone: {left}"]
    assert host.attachd.all == {}, "the rest is undone all the same"


def test_what_a_killed_attach_left_is_removed_first(host: FolderHost) -> None:
    with patch.object(Undo, "__exit__", lambda *_: None), pytest.raises(ProgramFailed):
        host.attachd.instead["complete"] = ProgramFailed("killed", 0)
        host.volumes.attach(VOLUME)
    assert host.kernel.sessions() and host.attachd.all and host.records
    (old,) = host.attachd.all
    attached = host.volumes.attach(VOLUME)
    assert list(host.attachd.all) == [attached.attachment_id] != [old]
    assert len(host.kernel.sessions()) == 1


def test_after_a_boot_the_disk_comes_back(host: FolderHost) -> None:
    attached = host.volumes.attach(VOLUME)
    host.kernel.boot()
    host.log.clear()
    again = host.volumes.attach(VOLUME)
    assert again.attachment_id == attached.attachment_id
    assert _steps(host) == ["update", "new", "--login", "multipathd show config", "complete"]


def test_a_disk_that_does_not_come_back_keeps_its_attachment(host: FolderHost) -> None:
    attached = host.volumes.attach(VOLUME)
    host.kernel.boot()
    host.programs.refuse = "--login"
    for _ in range(2):
        with pytest.raises(LoginFailed):
            host.volumes.attach(VOLUME)
    assert list(host.attachd.all) == [attached.attachment_id]
    assert host.kernel.sessions() == []
    host.programs.refuse = ""
    assert host.volumes.attach(VOLUME).attachment_id == attached.attachment_id


def test_another_host_of_the_same_name_keeps_its_disk(host: FolderHost) -> None:
    """Its attachment has our name, and nothing of it is here."""
    other = host.attachd.add(VOLUME)
    for call in (host.volumes.attach, host.volumes.detach):
        with pytest.raises(Refused, match="another of that name"):
            call(VOLUME)
    assert host.left() == [other.id]
    assert [line for line in host.log if line != "list"] == []


def test_another_mode_or_more_paths_need_a_detach(host: FolderHost) -> None:
    host.volumes.attach(VOLUME, mode="ro")
    for mode, multipath in (("rw", False), ("ro", True)):
        with pytest.raises(Refused, match="detach it first"):
            host.volumes.attach(VOLUME, mode=mode, multipath=multipath)
    assert len(host.kernel.sessions()) == 1


def test_what_others_attached_here_is_theirs(host: FolderHost) -> None:
    other = host.attachd.add(VOLUME, instance=str(uuid.uuid4()))
    host.kernel.log_in(target_of(VOLUME), PORTALS[0])
    for call in (host.volumes.attach, host.volumes.detach):
        with pytest.raises(Refused, match=other.id):
            call(VOLUME)
    assert [line for line in host.log if line != "list"] == []


def test_a_session_that_attachd_knows_nothing_of_is_left_alone(host: FolderHost) -> None:
    host.kernel.log_in(target_of(VOLUME), PORTALS[0])
    for call in (host.volumes.attach, host.volumes.detach):
        with pytest.raises(Refused, match="iscsiadm -m session -r 1 --logout"):
            call(VOLUME)
    assert len(host.kernel.sessions()) == 1


def test_sessions_of_other_volumes_stay(host: FolderHost) -> None:
    other, coming = str(uuid.uuid4()), str(uuid.uuid4())
    host.kernel.log_in(target_of(other), PORTALS[0])
    host.kernel.log_in(target_of(coming), PORTALS[0])
    host.kernel.delete("sdb")
    host.volumes.attach(VOLUME)
    assert host.volumes.detach(VOLUME).was_here
    left = [session.target for session in host.kernel.sessions()]
    assert left == [target_of(other), target_of(coming)]


def test_a_detach_lets_go_before_the_attachment_goes(host: FolderHost) -> None:
    attached = host.volumes.attach(VOLUME)
    host.log.clear()
    gone = host.volumes.detach(VOLUME)
    assert gone.attachment_ids == (attached.attachment_id,) and gone.was_here
    assert [_called(line) for line in host.log if line != "list"] == [
        "sync",
        "iscsiadm",
        "delete",
        "iscsiadm",
    ]
    assert host.left() == []
    again = host.volumes.detach(VOLUME)
    assert not again.was_here and again.attachment_ids == ()


def test_a_disk_in_use_is_not_detached(host: FolderHost) -> None:
    host.volumes.attach(VOLUME)
    mountinfo = host.kernel.root / "proc/self/mountinfo"
    mountinfo.write_text("25 1 8:16 / /srv\\040data rw - ext4 /dev/sda rw\n")
    before = host.left()
    with pytest.raises(InUse, match="/dev/sda is mounted at /srv data"):
        host.volumes.detach(VOLUME)
    assert host.left() == before
    mountinfo.write_text("")
    host.volumes.detach(VOLUME)
    assert host.left() == []


@pytest.mark.parametrize("step", ["sync", "multipath -f", "--logout"])
def test_a_detach_that_broke_off_is_finished_by_the_next(host: FolderHost, step: str) -> None:
    host.volumes.attach(VOLUME, multipath=True)
    host.programs.refuse = step
    with pytest.raises(ProgramFailed):
        host.volumes.detach(VOLUME)
    assert len(host.attachd.all) == 1, "access goes last"
    host.programs.refuse = ""
    host.volumes.detach(VOLUME)
    assert host.left() == []


def test_records_that_a_detach_could_not_remove_go_with_the_next(host: FolderHost) -> None:
    host.volumes.attach(VOLUME)
    host.programs.refuse = "--op delete"
    with pytest.raises(ProgramFailed):
        host.volumes.detach(VOLUME)
    assert host.attachd.all == {} and host.records
    host.programs.refuse = ""
    host.volumes.detach(VOLUME)
    assert host.left() == []


def test_a_detach_that_attachd_did_not_answer_is_finished_by_the_next(host: FolderHost) -> None:
    host.volumes.attach(VOLUME)
    host.attachd.instead["delete"] = AttachdError("broken", 500)
    with pytest.raises(AttachdError):
        host.volumes.detach(VOLUME)
    assert host.kernel.sessions() == [] and host.records, "so that it is known to be ours"
    host.volumes.detach(VOLUME)
    assert host.left() == []


@pytest.mark.parametrize("multipath", [False, True])
def test_an_attachment_that_is_gone_leaves_a_disk_to_remove(
    host: FolderHost, multipath: bool
) -> None:
    host.volumes.attach(VOLUME, multipath=multipath)
    host.attachd.all.clear()
    host.kernel.fail()
    host.log.clear()
    gone = host.volumes.detach(VOLUME)
    assert gone.was_here and gone.attachment_ids == ()
    assert host.left() == []
    assert not any(line.startswith("sync") for line in host.log), "nobody would take it"


def test_one_path_beside_the_multipath_device_counts_too(host: FolderHost) -> None:
    host.volumes.attach(VOLUME, multipath=True)
    host.kernel.log_in(target_of(VOLUME), "192.0.2.13:3260")
    mountinfo = host.kernel.root / "proc/self/mountinfo"
    mountinfo.write_text("25 1 8:48 / /srv rw - ext4 /dev/sdc rw\n")
    with pytest.raises(InUse, match="/dev/sdc is mounted"):
        host.volumes.detach(VOLUME)


def test_a_disk_that_multipathd_was_told_of_and_did_not_take(host: FolderHost) -> None:
    with patch.object(host.kernel, "assemble", lambda wwid: None), pytest.raises(DiskMissing):
        host.volumes.attach(VOLUME, multipath=True)
    assert any("multipath -a" in line for line in host.log)
    assert host.left() == []


@pytest.mark.parametrize(
    ("find_multipaths", "comes", "device"),
    [("no", True, "/dev/mapper/mpatha"), ("no", False, "/dev/sda"), ("strict", True, "/dev/sda")],
)
def test_a_disk_that_multipathd_takes_by_itself(
    host: FolderHost, find_multipaths: str, comes: bool, device: str
) -> None:
    def take(line: str) -> None:
        if comes and line == "multipathd show config":
            host.kernel.assemble(wwid_of(VOLUME))

    config = f'defaults {{\n\tverbosity 2\n\tfind_multipaths "{find_multipaths}"\n}}\n'
    host.programs.output["multipathd show config"] = config
    if find_multipaths == "no":
        host.programs.watch = take
    attached = host.volumes.attach(VOLUME)
    assert attached.disk.device == device
    host.volumes.detach(VOLUME)
    assert host.left() == []


def test_a_multipath_device_without_paths_goes_too(host: FolderHost) -> None:
    host.volumes.attach(VOLUME, multipath=True)
    for session in host.kernel.sessions():
        for disk in session.disks.values():
            host.kernel.delete(disk)
        host.kernel.log_out(str(session.number))
    host.volumes.detach(VOLUME)
    assert host.left() == []


def test_a_volume_that_is_busy_is_asked_for_again(host: FolderHost) -> None:
    host.volumes.attach(VOLUME)
    host.attachd.instead["delete"] = BUSY
    host.volumes.detach(VOLUME)
    assert host.left() == []


def test_only_ids_and_only_root(host: FolderHost) -> None:
    with pytest.raises(Invalid):
        host.volumes.attach("../../etc")
    with (
        patch.object(host.programs, "are_roots", lambda: False),
        pytest.raises(LocalError, match="root"),
    ):
        host.volumes.attach(VOLUME)
    assert host.log == []
