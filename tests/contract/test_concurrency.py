"""Many callers at once: each gets an answer that some order of the calls explains, and
afterwards records, kernel and LVM hold the same things."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from functools import partial
from itertools import islice

import pytest

from targetd.api.v1 import volume_pb2
from targetd.model import Acl, Volume
from targetd.workers import QUEUE_LENGTH_MAX
from tests.answers import answer_of, check_agreement, listing
from tests.callers import Answer, Caller, at_once, call_with, in_lab, reasons
from tests.hosts import MEBIBYTE, Host, SimulatedBacking
from tests.model import HUGE_BYTES


def exported(host: Host, caller: Caller, multi_attach: bool = False) -> str:
    volume_id = host.create(multi_attach=multi_attach)
    assert caller.export(volume_id)[0] == ""
    return volume_id


def test_attach_against_detach(host: Host, caller: Caller) -> None:
    volume_id = exported(host, caller)
    for _ in range(20):
        works = [caller.attach, caller.detach, caller.attach, caller.detach]
        answers = at_once(partial(call_with, volume_id), works)
        assert reasons(answers) == [""] * 4
        found = check_agreement(host)
        # Whichever came last; and who was told of a secret last has the one that is valid.
        if found.connections:
            secret = caller.attach(volume_id)[1].properties.auth_password
            given = {answers[0][1].properties.auth_password, answers[2][1].properties.auth_password}
            assert secret in given
        caller.detach(volume_id)


def test_removal_against_attach(host: Host, caller: Caller) -> None:
    def remove(volume_id: str) -> list[str]:
        return [caller.unexport(volume_id)[0], caller.delete(volume_id)[0]]

    def attach(volume_id: str) -> list[str]:
        return [caller.attach(volume_id)[0]]

    seen = Counter[str]()
    for number in range(20):
        volume_id = exported(host, caller)
        works = [remove, attach] if number % 2 else [attach, remove]
        answers = at_once(partial(call_with, volume_id), works)
        removed, attached = answers if number % 2 else answers[::-1]
        found = check_agreement(host)
        if attached == [""]:
            assert removed == ["HAS_CONNECTIONS", "HAS_CONNECTIONS"]
            assert [*found.volumes] == [*found.exports] == [volume_id]
            assert [*found.connections] == [(volume_id, "one")]
        else:
            assert attached in (["NOT_FOUND"], ["NOT_EXPORTED"])
            assert removed == ["", ""]
            assert found.volumes == {}
        seen[attached[0]] += 1
        host.remove_everything()
    print(f"attached: {dict(seen)}")


def test_the_same_call_at_once_is_answered_the_same(host: Host, caller: Caller) -> None:
    volume_id = str(uuid.uuid4())
    calls: list[Callable[[str], Answer]] = [
        caller.create,
        lambda one: caller.extend(one, 8 * MEBIBYTE),
        caller.export,
        caller.attach,
        caller.detach,
        caller.unexport,
        caller.delete,
    ]
    for call in calls:
        answers = at_once(call, [volume_id] * 4)
        assert reasons(answers) == [""] * 4
        assert all(answer == answers[0][1] for _, answer in answers)
        check_agreement(host)


def test_one_attachment_for_two_hosts_at_once(host: Host, caller: Caller) -> None:
    volume_id = exported(host, caller, multi_attach=True)
    for _ in range(10):
        answers = at_once(lambda name: caller.attach(volume_id, name), ["a", "b"])
        assert reasons(answers) == ["", "ALREADY_EXISTS"]
        winner = "a" if answers[0][0] == "" else "b"
        (connection,) = check_agreement(host).connections.values()
        assert connection.initiator == host.backing.initiator(winner)
        caller.detach(volume_id)


def test_two_hosts_at_once_without_multi_attach(host: Host, caller: Caller) -> None:
    volume_id = exported(host, caller)
    for _ in range(10):
        answers = at_once(lambda name: caller.attach(volume_id, name, name), ["a", "b"])
        assert reasons(answers) == ["", "NOT_MULTI_ATTACH"]
        assert len(check_agreement(host).connections) == 1
        for name in ("a", "b"):
            caller.detach(volume_id, name)


def test_what_is_refused_among_many_changes_nothing(host: Host, caller: Caller) -> None:
    volume_id = exported(host, caller)
    assert caller.attach(volume_id)[0] == ""
    before = listing(host)
    refused: dict[str, Callable[[], Answer]] = {
        "HAS_CONNECTIONS": lambda: caller.unexport(volume_id),
        "ALREADY_EXISTS": lambda: caller.create(volume_id, 64 * MEBIBYTE),
        "NOT_MULTI_ATTACH": lambda: caller.attach(volume_id, "b", "two"),
        "OVER_SUBSCRIBED": lambda: caller.extend(volume_id, HUGE_BYTES),
    }
    for _ in range(10):
        answers = at_once(lambda call: call(), refused.values())
        assert [reason for reason, _ in answers] == list(refused)
    assert check_agreement(host) == before


def test_more_callers_than_may_wait_are_sent_away(host: Host, caller: Caller) -> None:
    volume_id = exported(host, caller)
    seen = Counter[str]()
    for round_ in range(5):
        wanted = [(round_, number) for number in range(4 * QUEUE_LENGTH_MAX)]
        answers = at_once(lambda one: caller.attach(volume_id, "a", f"{one[0]}.{one[1]}"), wanted)
        seen.update(reason for reason, _ in answers)
        attached = {
            (volume_id, f"{number[0]}.{number[1]}")
            for number, (reason, _) in zip(wanted, answers, strict=True)
            if reason == ""
        }
        found = check_agreement(host)
        assert {one for one in found.connections if one[1].startswith(f"{round_}.")} == attached
    assert set(seen) <= {"", "BUSY"}
    assert seen[""] >= 5 * QUEUE_LENGTH_MAX
    print(f"answers: {dict(seen)}")


def test_exactly_so_many_wait_for_a_stuck_volume(
    simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(simulated_backing)
    caller = Caller(host)
    volume_id, other = exported(host, caller), exported(host, caller)
    go_on, ensure = threading.Event(), simulated_backing.lio.ensure_acl

    def ensure_acl(iqn: str, acl: Acl) -> Sequence[str]:
        if iqn.endswith(volume_id):
            go_on.wait()
        return ensure(iqn, acl)

    monkeypatch.setattr(simulated_backing.lio, "ensure_acl", ensure_acl)
    too_many = 5
    with ThreadPoolExecutor(QUEUE_LENGTH_MAX + too_many) as threads:
        calls = [
            threads.submit(caller.attach, volume_id, "a", str(number))
            for number in range(QUEUE_LENGTH_MAX + too_many)
        ]
        # Those sent away are told so at once; the volume beside goes on meanwhile.
        sent_away = list(islice(as_completed(calls), too_many))
        assert {call.result()[0] for call in sent_away} == {"BUSY"}
        assert caller.attach(other)[0] == ""
        go_on.set()
        assert reasons(call.result() for call in calls) == [
            *[""] * QUEUE_LENGTH_MAX,
            *["BUSY"] * too_many,
        ]
    assert len(check_agreement(host).connections) == QUEUE_LENGTH_MAX + 1
    host.close()


def test_the_only_exports_come_and_go_at_once(host: Host, caller: Caller) -> None:
    """The kernel stops to listen at a portal when its last target goes, and listens again with
    the next one: a new one must not find it half gone."""

    def come_and_go(volume_id: str) -> list[str]:
        calls = [caller.export, caller.unexport] * 100
        return [call(volume_id)[0] for call in calls]

    for answers in at_once(come_and_go, [host.create(), host.create()]):
        assert Counter(answers) == {"": 200}
    assert host.backing.kernel() == {}


def test_many_volumes_at_once(host: Host, caller: Caller) -> None:
    # LVM takes its time on the real host; there each volume comes and goes several times.
    number, rounds = (20, 5) if in_lab(host) else (100, 1)

    def attach_and_detach(volume_id: str) -> list[str]:
        done = [caller.create(volume_id), caller.export(volume_id)]
        for _ in range(rounds):
            done += [caller.attach(volume_id), caller.detach(volume_id)]
        done.append(caller.attach(volume_id))
        return [reason for reason, _ in done]

    def remove(volume_id: str) -> list[str]:
        done = [caller.detach(volume_id), caller.unexport(volume_id), caller.delete(volume_id)]
        return [reason for reason, _ in done]

    volume_ids = [str(uuid.uuid4()) for _ in range(number)]
    for answers in at_once(attach_and_detach, volume_ids):
        assert set(answers) == {""}
    found = check_agreement(host)
    assert set(found.volumes) == set(found.exports) == set(volume_ids)
    assert set(found.connections) == {(volume_id, "one") for volume_id in volume_ids}
    for answers in at_once(remove, volume_ids):
        assert set(answers) == {""}
    assert check_agreement(host).volumes == {}
    assert host.backing.kernel() == {}


# What any of the calls of a crowd may be refused with.
CROWD = {
    "",
    "BUSY",
    "NOT_FOUND",
    "NOT_EXPORTED",
    "HAS_CONNECTIONS",
    "EXPORTED",
    "ALREADY_EXISTS",
    "NOT_MULTI_ATTACH",
}


def one_of_a_crowd(caller: Caller, chance: random.Random, volume_id: str) -> str:
    what = chance.choices(("make", "attach", "detach", "unexport", "delete"), (4, 4, 3, 1, 1))[0]
    attachment_id = chance.choice(("one", "two"))
    if what == "make":
        return caller.create(volume_id)[0] or caller.export(volume_id)[0]
    if what == "attach":
        return caller.attach(volume_id, chance.choice("ab"), attachment_id)[0]
    if what == "detach":
        return caller.detach(volume_id, attachment_id)[0]
    return (caller.unexport if what == "unexport" else caller.delete)(volume_id)[0]


def test_a_crowd(host: Host, caller: Caller) -> None:
    volume_ids = [str(uuid.uuid4()) for _ in range(3)]
    calls_each = 20 if in_lab(host) else 150

    def customer(seed: int) -> Counter[str]:
        chance = random.Random(seed)
        return Counter(
            one_of_a_crowd(caller, chance, chance.choice(volume_ids)) for _ in range(calls_each)
        )

    seen = sum(at_once(customer, range(8)), Counter[str]())
    assert set(seen) <= CROWD
    check_agreement(host)
    print(f"{seen.total()} calls: {dict(seen)}")


def test_ids_that_initiators_confuse_at_once(
    simulated_backing: SimulatedBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(simulated_backing)
    begun, go_on = threading.Event(), threading.Event()
    make = simulated_backing.lvm.create

    def create(volume: Volume) -> Volume:
        begun.set()
        go_on.wait()
        return make(volume)

    monkeypatch.setattr(simulated_backing.lvm, "create", create)
    twins = [str(uuid.UUID(int=1 << 100 | number)) for number in (1, 2)]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(Caller(host).create, twins[0])
        begun.wait()
        second = threads.submit(Caller(host).create, twins[1])
        # It is refused at once, or waits: for the first, or in LVM, beside the first.
        wait([second], timeout=1)
        go_on.set()
        assert [first.result()[0], second.result()[0]] == ["", "INVALID_ARGUMENT"]
    host.close()


def test_a_failed_creation_claims_no_identity(simulated_backing: SimulatedBacking) -> None:
    host = Host(simulated_backing)
    one, other = (f"{uuid.UUID(int=1 << 100 | number)}" for number in (1, 2))
    request = volume_pb2.CreateVolumeRequest(volume_id=one, pool="thick", size_bytes=HUGE_BYTES)
    assert answer_of(host.volumes.CreateVolume, request)[0] == "RESOURCE_EXHAUSTED"
    assert Caller(host).create(other)[0] == ""
    assert Caller(host).create(one)[0] == "INVALID_ARGUMENT"
    host.close()
