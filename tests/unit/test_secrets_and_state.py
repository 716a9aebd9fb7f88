from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from targetd import secretbox
from targetd.errors import StartError
from targetd.model import AccessMode, Connection, ConnectionState, Credentials, Export
from targetd.secretbox import SecretBox, load_key, new_credentials
from targetd.state import State

VOLUME = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "MarkedSecret1234"
CONNECTION = Connection(
    volume_id=VOLUME,
    attachment_id="one",
    initiator="iqn.2026-01.org.example:a",
    host="a",
    access_mode=AccessMode.READ_ONLY,
    state=ConnectionState.GRANTING,
    credentials=Credentials("user", SECRET),
    create_time=NOW,
)


def state_in(folder: Path) -> State:
    path = folder / "state.sqlite"
    return State(path, SecretBox(load_key(folder / "host.key", create=not path.exists())))


def filled(folder: Path) -> None:
    state = state_in(folder)
    state.put_export(Export(VOLUME, NOW))
    state.add_connection(CONNECTION)
    state.close()


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    filled(tmp_path)
    state = state_in(tmp_path)
    assert state.exports() == [Export(VOLUME, NOW)]
    assert state.connections() == [CONNECTION]
    domain = state.lock_domain_id()
    state.set_connection_states([CONNECTION], ConnectionState.GRANTED)
    assert state.connections()[0].state is ConnectionState.GRANTED
    state.remove_connections([CONNECTION])
    state.remove_export(VOLUME)
    assert state.connections() == [] and state.exports() == []
    state.close()
    again = state_in(tmp_path)
    assert again.lock_domain_id() == domain
    again.close()


def test_no_secret_rests_in_clear_text(tmp_path: Path) -> None:
    filled(tmp_path)
    for path in tmp_path.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path
    assert (tmp_path / "host.key").stat().st_mode & 0o777 == 0o600
    assert SECRET not in repr(CONNECTION)


def test_a_lost_key_is_a_refusal(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "host.key").unlink()
    with pytest.raises(StartError, match="cannot be read"):
        state_in(tmp_path)
    assert not (tmp_path / "host.key").exists(), "no new key hides the loss"


def test_another_key_is_a_refusal(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "host.key").write_bytes(b"x" * 32)
    state = state_in(tmp_path)
    with pytest.raises(StartError, match="does not open"):
        state.connections()
    state.close()


@pytest.mark.parametrize(("content", "mode"), [(b"short", 0o600), (b"x" * 32, 0o644)])
def test_a_bad_key_is_a_refusal(tmp_path: Path, content: bytes, mode: int) -> None:
    key = tmp_path / "host.key"
    key.write_bytes(content)
    key.chmod(mode)
    with pytest.raises(StartError, match=r"host\.key"):
        load_key(key, create=False)


def test_a_corrupt_or_newer_state_is_a_refusal(tmp_path: Path) -> None:
    filled(tmp_path)
    database = sqlite3.connect(tmp_path / "state.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StartError, match="newer"):
        state_in(tmp_path)
    (tmp_path / "state.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StartError, match="backup"):
        state_in(tmp_path)


def test_secrets_are_random_and_fit_every_initiator() -> None:
    made = [new_credentials() for _ in range(100)]
    assert len({one.password for one in made}) == 100
    for one in made:
        assert 12 <= len(one.password) <= 16
        assert one.password.isalnum() and one.username.isalnum()
        assert one.password not in repr(one)


def test_random_bytes_are_given_out_once() -> None:
    with patch.object(os, "urandom", wraps=os.urandom) as kernel:
        taken = [secretbox._random.take(12) for _ in range(1000)]
    assert len(set(taken)) == 1000 and {len(one) for one in taken} == {12}
    assert 1000 / secretbox.CHUNKS - 1 <= kernel.call_count <= 1000 / secretbox.CHUNKS + 1
