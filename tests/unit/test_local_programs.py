"""Programs that are run, and a lock that is waited for."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from targetd_local import Interrupted, NotPossible, ProgramFailed, lock
from targetd_local.lock import locked
from targetd_local.programs import LATE, Done, Programs


def _never() -> None:
    pass


def test_how_a_program_ends() -> None:
    run = Programs().run
    assert run(["sh", "-c", "echo out; echo err >&2; exit 3"], ok=(0, 3)) == Done(
        3, "out\n", "err\n"
    )
    with pytest.raises(ProgramFailed, match="status 3: why") as caught:
        run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.status == 3
    with pytest.raises(ProgramFailed, match=r"not done in 0\.1 s") as caught:
        run(["sleep", "1000"], seconds=0.1)
    assert caught.value.status == LATE


def test_nothing_of_the_callers_gets_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNCTL_TOKEN", "secret")
    shown = Programs().run(["env"]).stdout
    assert "secret" not in shown and "LC_ALL=C\n" in shown


@pytest.mark.parametrize("name", ["multipathd", "none-of-that-name"])
def test_what_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targetd_local.programs.PATH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    package = "multipath-tools" if name == "multipathd" else name
    with pytest.raises(NotPossible, match=f"apt-get install {package}"):
        Programs().run([name])


def test_one_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "lock", set[int](), list[int]()

    def work(number: int) -> None:
        for _ in range(5):
            with locked(path, _never):
                inside.add(number)
                most.append(len(inside))
                inside.discard(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert not path.exists()


def test_a_lock_whose_file_went_while_it_was_waited_for(tmp_path: Path) -> None:
    """Somebody else may have a new file of that name by then."""
    path, wait = tmp_path / "lock", lock._wait
    replaced = threading.Event()

    def slow(descriptor: int, check: Callable[[], None]) -> None:
        wait(descriptor, check)
        if not replaced.is_set():
            path.unlink()
            path.touch()
            replaced.set()

    with (
        patch.object(lock, "_wait", slow),
        locked(path, _never),
        path.open() as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert replaced.is_set() and not path.exists()


def test_waiting_can_be_left(tmp_path: Path) -> None:
    looks = iter(range(3))

    def check() -> None:
        if next(looks, None) is None:
            raise Interrupted("interrupted")

    path = tmp_path / "lock"
    with locked(path, _never):
        with pytest.raises(Interrupted), locked(path, check):
            pass
        assert path.exists(), "it is still held"
    assert not path.exists()
