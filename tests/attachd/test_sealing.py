"""Secrets at rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from attachd.errors import AttachError
from attachd.model import MASK
from attachd.sealing import Sealing
from targetd.errors import StartError

INFO = {
    "driver_volume_type": "iscsi",
    "auth_username": "user",
    "auth_password": "first secret",
    "mutual_auth_password": "second secret",
    "target_luns": [0, 0],
}


@pytest.fixture
def sealing(tmp_path: Path) -> Sealing:
    return Sealing.with_key_file(tmp_path / "key", create=True)


def test_what_is_sealed_is_opened_and_shows_no_secret(sealing: Sealing) -> None:
    sealed = sealing.seal("id", INFO)
    assert sealed.masked == {**INFO, "auth_password": MASK, "mutual_auth_password": MASK}
    assert b"secret" not in sealed.secrets
    assert sealing.opened("id", sealed.masked, sealed.secrets) == INFO
    # Sealed again it is not the same.
    assert sealing.seal("id", INFO).secrets != sealed.secrets


def test_what_has_no_secret_shows_no_mask(sealing: Sealing) -> None:
    plain = {"driver_volume_type": "iscsi", "auth_password": "", "mutual_auth_password": None}
    sealed = sealing.seal("id", plain)
    assert sealed.masked == plain
    assert sealing.opened("id", sealed.masked, sealed.secrets) == plain


def test_a_secret_belongs_to_its_attachment(sealing: Sealing) -> None:
    sealed = sealing.seal("one", INFO)
    with pytest.raises(AttachError, match="key file") as refused:
        sealing.opened("two", sealed.masked, sealed.secrets)
    assert refused.value.code == 500


def test_another_key_opens_nothing(sealing: Sealing, tmp_path: Path) -> None:
    sealed = sealing.seal("id", INFO)
    other = Sealing.with_key_file(tmp_path / "other", create=True)
    with pytest.raises(AttachError, match="restore the key file"):
        other.opened("id", sealed.masked, sealed.secrets)
    again = Sealing.with_key_file(tmp_path / "key", create=False)
    assert again.opened("id", sealed.masked, sealed.secrets) == INFO


def test_a_key_that_is_missing_or_open_to_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        Sealing.with_key_file(tmp_path / "key", create=False)
    Sealing.with_key_file(tmp_path / "key", create=True)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(StartError, match="chmod 600"):
        Sealing.with_key_file(tmp_path / "key", create=True)
