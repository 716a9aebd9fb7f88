"""The watchdog is fed by a daemon that works, and starved by one that does not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from targetd import notify
from targetd.errors import DeadlineExceeded
from targetd.watchdog import ROUNDS, Watchdog, proofs
from targetd.workers import Deadline
from tests.hosts import SimulatedBacking
from tests.systemd import Systemd

# How long systemd would wait, and how long here for what must not come.
WATCHDOG_SECONDS = 0.2
NEVER_SECONDS = 1.0
THREADS = 4


def starved(systemd: Systemd) -> bool:
    """Whether the watchdog is fed no more, once what was on its way has come."""
    while systemd.hears("WATCHDOG=1", WATCHDOG_SECONDS):
        # At most those that were proved before.
        pass
    return not systemd.hears("WATCHDOG=1", NEVER_SECONDS)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    path = tmp_path / "notify"
    listening = Systemd(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    yield listening
    listening.close()


@pytest.fixture
def fed(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedBacking]:
    """A daemon whose watchdog is on, and which has been heard."""
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_SECONDS * 1e6)))
    monkeypatch.setattr("targetd.server.serve.THREADS", THREADS)
    with TemporaryDirectory(dir="/dev/shm") as folder:
        backing = SimulatedBacking(Path(folder))
        assert systemd.hears("WATCHDOG=1")
        yield backing
        backing.close()


def test_a_stuck_volume_starves_nobody(fed: SimulatedBacking, systemd: Systemd) -> None:
    stuck = threading.Event()
    with pytest.raises(DeadlineExceeded):
        fed.daemon.workers.run("a-volume", Deadline(0.01), stuck.wait)
    for _ in range(2 * ROUNDS):
        assert systemd.hears("WATCHDOG=1")
    stuck.set()


def test_a_lock_of_the_workers_that_is_never_released(
    fed: SimulatedBacking, systemd: Systemd
) -> None:
    with fed.daemon.workers._lock:
        assert systemd.hears("STATUS=not well: volume workers")
        assert starved(systemd)
    assert systemd.hears("WATCHDOG=1"), "it works again"
    assert "serving on" in systemd.hears("STATUS=")


def test_a_lock_of_the_records_that_is_never_released(
    fed: SimulatedBacking, systemd: Systemd
) -> None:
    with fed.daemon.state._lock:
        assert systemd.hears("STATUS=not well: records")
        assert starved(systemd)
    assert systemd.hears("WATCHDOG=1")


def test_calls_that_hold_every_thread(
    fed: SimulatedBacking, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targetd.watchdog.CALL_SECONDS", WATCHDOG_SECONDS)
    held = threading.Event()
    server = fed.daemon._server._grpc
    pool = server._state.thread_pool  # type: ignore[attr-defined]
    for _ in range(THREADS):
        pool.submit(held.wait)
    assert systemd.hears("STATUS=not well: calls")
    assert starved(systemd)
    held.set()
    assert systemd.hears("WATCHDOG=1")


def test_a_thread_that_ended(fed: SimulatedBacking, systemd: Systemd) -> None:
    fed.daemon.observations.stop()
    assert systemd.hears("STATUS=not well: threads: ended: observations")
    assert starved(systemd)


def test_without_systemd_nothing_is_done(simulated_backing: SimulatedBacking) -> None:
    assert notify.watchdog_seconds() == 0
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())
    notify.status("nobody hears it")


def test_another_process_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    assert notify.watchdog_seconds() == 1
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_seconds() == 1
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_seconds() == 0


def test_the_reason_is_logged_once(
    simulated_backing: SimulatedBacking, caplog: pytest.LogCaptureFixture, systemd: Systemd
) -> None:
    daemon = simulated_backing.daemon
    given = proofs(daemon._channel, daemon.workers, daemon.state, lambda: {"x": False})
    dog = Watchdog(given, daemon.status)
    dog.start(WATCHDOG_SECONDS)
    assert starved(systemd)
    dog.stop()
    said = [record.message for record in caplog.records if "watchdog" in record.message]
    assert said == ["the watchdog is not fed: threads: ended: x"]


def test_progress_asks_for_time_but_not_all_the_time(systemd: Systemd) -> None:
    progress = notify.Progress()
    for number in range(1000):
        progress(f"looked at {number} of 1000 exports")
    first = systemd.hears("EXTEND_TIMEOUT_USEC=", 0.1)
    assert first == "EXTEND_TIMEOUT_USEC=180000000\nSTATUS=looked at 0 of 1000 exports"
    assert not systemd.hears("EXTEND_TIMEOUT_USEC=", 0.01)
