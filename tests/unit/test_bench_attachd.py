"""What the bench of attachd makes of what it measures."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from lab.bench.attachd.api import Api, ApiError
from lab.bench.attachd.calls import Subject
from lab.bench.attachd.clients import Calls, Outcome, measure
from lab.bench.attachd.counting import Count
from lab.bench.attachd.population import AVAILABLE, attached, attachment_id, volume_id
from lab.bench.attachd.requests import STATEMENTS, Requests
from lab.bench.attachd.rows import DATABASES, LIMITS, Per, Row, table, write


def test_a_ratio_has_a_limit_and_what_exceeds_it_is_marked(tmp_path: Path) -> None:
    slow = Row("create p50, attachd / cinder", Per.CLIENTS, 1, 0.21, "ratio")
    fast = Row("delete p50, attachd / cinder", Per.CLIENTS, 1, 0.2, "ratio")
    free = Row("cinder: create errors", Per.CLIENTS, 32, 3, "")
    assert [row.exceeded for row in (slow, fast, free)] == [True, False, False]
    shown = table([slow, fast, free])
    assert "!0.21" in shown
    assert "!0.2 " not in shown
    write([slow], tmp_path / "new" / "rows.json")
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == {
        "rows": [
            {
                "measure": "create p50, attachd / cinder",
                "per": "clients",
                "count": 1,
                "value": 0.21,
                "unit": "ratio",
                "limit": 0.2,
            }
        ]
    }


def test_each_kind_of_count_has_a_table_of_its_own() -> None:
    calls = Row("attachd: create p50", Per.CLIENTS, 32, 7.0, "ms")
    records = Row("SQLite: show volume p50", Per.VOLUMES, 10_000, 8.0, "ms")
    first, second = table([records, calls]).split("\n\n")
    assert "clients" in first.splitlines()[0]
    assert "32" in first.splitlines()[0]
    assert "volumes" in second.splitlines()[0]
    assert "10000" in second.splitlines()[0]
    assert "\n\n" not in table([calls])


def test_every_request_is_limited_on_every_database() -> None:
    requests = Requests(Api(0), 100).by_name
    assert set(requests) == set(STATEMENTS)
    for database in DATABASES:
        for name in requests:
            assert LIMITS[f"{database}: {name} statements"].most == STATEMENTS[name]
            assert f"{database}: {name} p50 / at first" in LIMITS


class Fake:
    """Refuses one volume, and never has one attached twice."""

    def __init__(self, refused: str) -> None:
        self._refused = refused
        self._lock = threading.Lock()
        self.made, self.gone = Counter[str](), Counter[str]()

    def connect(self) -> None:
        return None

    def create_attachment(self, volume_id: str) -> str:
        if volume_id == self._refused:
            raise ApiError("refused")
        with self._lock:
            self.made[volume_id] += 1
        return f"attachment of {volume_id}"

    def delete_attachment(self, attachment_id: str) -> None:
        with self._lock:
            self.gone[attachment_id.removeprefix("attachment of ")] += 1

    def close(self) -> None:
        return None


def test_clients_share_the_volumes_and_what_was_refused_is_not_timed() -> None:
    volumes = [str(number) for number in range(10)]
    fake = Fake(refused="3")
    outcome = measure([fake, fake, fake], volumes)
    others = {volume: 1 for volume in volumes if volume != "3"}
    assert fake.made == others
    assert fake.gone == others
    assert outcome.create.errors == ["refused"]
    assert len(outcome.create.seconds) == len(outcome.delete.seconds) == 9
    assert outcome.delete.errors == []
    assert outcome.create.all_seconds > 0
    assert Outcome.of(json.dumps(asdict(outcome))) == outcome


def test_turns_are_added_up() -> None:
    subject = Subject("attachd", [], [])
    subject.outcomes = [
        Outcome(Calls([1.0, 2.0], ["late"], 3.0), Calls([4.0], [], 4.0)),
        Outcome(Calls([5.0], [], 5.0), Calls([], ["gone"], 1.0)),
    ]
    assert subject.calls("create") == Calls([1.0, 2.0, 5.0], ["late"], 8.0)
    assert subject.calls("delete") == Calls([4.0], ["gone"], 5.0)


def test_another_process_can_read_the_count(tmp_path: Path) -> None:
    counts, reads = (Count(tmp_path / "statements") for _ in range(2))
    assert reads.value == 0
    for _ in range(300):
        counts.add("connection", "cursor")
    assert reads.value == 300


def test_every_volume_but_the_oldest_has_two_attachments() -> None:
    found = list(attached(100))
    assert Counter(number for number, _ in found) == dict.fromkeys(range(AVAILABLE, 100), 2)
    assert len({attachment_id(*one) for one in found}) == len(found)
    assert len({volume_id(number) for number in range(100)}) == 100
