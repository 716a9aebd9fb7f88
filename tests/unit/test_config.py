from __future__ import annotations

from pathlib import Path

import pytest

from targetd import config
from targetd.errors import StartError
from targetd.model import PoolConfig, Provisioning

POOL = '[[pool]]\nname = "p"\nvolume_group = "vg"\n'


def load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "targetd.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_a_pool_is_enough(tmp_path: Path) -> None:
    found = load(tmp_path, POOL)
    assert found.pools == (PoolConfig("p", "vg"),)
    assert found.pools[0].provisioning is Provisioning.THICK
    assert found.listen == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "pool"),
        ("pool = 3", "pool"),
        (POOL + "thin = 1", "thin"),
        (POOL + "thin_pool = 1", "thin_pool"),
        (POOL + POOL, "two pools"),
        ('[[pool]]\nname = "p"', "volume_group"),
        ('[[pool]]\nname = "-p"\nvolume_group = "vg"', "name"),
        ('[[pool]]\nname = "p"\nvolume_group = "-vg"', "volume_group"),
        ('listen = "0.0.0.0:1"\n' + POOL, "mutual TLS"),
        ('iqn_prefix = "iqn.2026"\n' + POOL, "iqn_prefix"),
        ('portal_addresses = ["host"]\n' + POOL, "host"),
        ("portal_port = 0\n" + POOL, "portal_port"),
        ('portal_port = "3260"\n' + POOL, "portal_port"),
        ('state_directory = "relative"\n' + POOL, "state_directory"),
        ('log_level = "loud"\n' + POOL, "log_level"),
        ('unknown = "x"\n' + POOL, "unknown"),
        ("= broken", "line 1"),
        (POOL + '[tls]\nkey = "/k"', "tls.certificate"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(StartError, match=r"targetd\.toml") as caught:
        load(tmp_path, text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        config.load(tmp_path / "none.toml")
