from __future__ import annotations

from pathlib import Path

import pytest

from targetd import config
from targetd.errors import StartError
from targetd.model import PoolConfig, Provisioning
from targetd.roles import Role

TLS = '[tls]\ncertificate = "/c"\nkey = "/k"\nclient_ca = "/a"\n'
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
        ('listen = "127.0.0.1:1"\n' + POOL, "mutual TLS"),
        ('listen_without_tls = true\nlisten = "192.0.2.1:1"\n' + POOL, "loopback"),
        ('listen_without_tls = true\nlisten = "0.0.0.0:1"\n' + POOL, "loopback"),
        ('listen_without_tls = true\nlisten = "[::]:1"\n' + POOL, "loopback"),
        ('listen_without_tls = true\nlisten = "localhost:1"\n' + POOL, "loopback"),
        ('listen_without_tls = true\nlisten = "127.0.0.1"\n' + POOL, "loopback"),
        ('listen_without_tls = 1\nlisten = "127.0.0.1:1"\n' + POOL, "true or false"),
        ("listen_without_tls = true\n" + POOL + TLS, "does not go with [tls]"),
        ("calls_per_client = 0\n" + POOL, "calls_per_client"),
        ("calls_per_client = 512\n" + POOL, "calls_per_client"),
        (POOL + '[roles]\n"a" = "root"', "roles.a"),
        (POOL + '[roles]\n"a" = 1', "roles.a"),
        ('roles = "admin"\n' + POOL, "roles"),
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


@pytest.mark.parametrize("listen", ["127.0.0.1:7788", "127.1.2.3:1", "[::1]:7788"])
def test_loopback_may_do_without_tls_where_it_is_said(tmp_path: Path, listen: str) -> None:
    found = load(tmp_path, f'listen = "{listen}"\nlisten_without_tls = true\n' + POOL)
    assert found.listen == listen and found.listen_without_tls


def test_roles_are_by_name(tmp_path: Path) -> None:
    found = load(tmp_path, POOL + '[roles]\n"a b" = "viewer"\nlost = "none"\n')
    assert found.roles == {"a b": Role.VIEWER, "lost": Role.NONE}
    assert load(tmp_path, POOL).roles == {}


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        config.load(tmp_path / "none.toml")
