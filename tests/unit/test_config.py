from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from targetd import config
from targetd.config_file import KeyPath, Table, line_of
from targetd.config_warnings import warnings
from targetd.errors import StartError
from targetd.model import PoolConfig, Provisioning, WipePolicy
from targetd.roles import Role

EXAMPLE = Path(__file__).resolve().parents[2] / "systemd" / "targetd.toml"
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
        ("= broken", "targetd.toml:1: "),
        ("listen", "targetd.toml:1: "),
        (POOL + 'x = """', "targetd.toml:4: "),
        (f'listen = "here"\n{POOL}{TLS}', "address:port"),
        (f'socket = "/{"s" * 107}"\n' + POOL, "socket"),
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


ODD = """\
# a comment, an empty line

"log_level" = 'info'   # quoted
portal_addresses = [
  "192.0.2.1", # [[pool]]
  "192.0.2.2",
]
tls.certificate = \"\"\"
/etc/
log_level = 3
\"\"\"
tls . "key" = "/k"
deep.er = { inline = 1, more = { still = 2 } }
[[pool]]
name = "one"

[[pool]]
  # in the second
  name = "two"
  "volume_group" = "vg"
  [pool.sub]
  x = 1
[[pool.list]]
[[pool.list]]
y = 2
[last]
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("log_level",), 3),
        (("portal_addresses",), 4),
        (("portal_addresses", 1), 4),
        (("tls",), 8),
        (("tls", "certificate"), 8),
        (("tls", "key"), 12),
        (("deep", "er", "inline"), 13),
        (("deep", "er", "more", "still"), 13),
        (("pool",), 14),
        (("pool", 0, "name"), 15),
        (("pool", 1), 17),
        (("pool", 1, "name"), 19),
        (("pool", 1, "volume_group"), 20),
        (("pool", 1, "sub", "x"), 22),
        (("pool", 1, "list", 0), 23),
        (("pool", 1, "list", 1), 24),
        (("pool", 1, "list", 1, "y"), 25),
        (("last",), 26),
        (("pool", 2), None),
        (("log_level", "x"), None),
        ((), None),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_of_a_key_is_found(place: KeyPath, line: int | None, end: str) -> None:
    assert line_of(ODD.replace("\n", end), place) == line


def test_what_looks_like_a_line_end_is_none() -> None:
    assert line_of('a = "\u2028"\nb = 1', ("b",)) == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (POOL + '\n[[pool]]\nname = "q"\nvolume_group = "v"\nwipe = "no"', ":8: pool[1].wipe: "),
        (POOL + '\n# none\n[[pool]]\nname = "q"', ":6: pool[1].volume_group: "),
        (POOL + "\n" + POOL, ":6: pool[1].name: two pools"),
        (POOL + POOL.replace('"p"', '"q"'), ":6: pool[1].volume_group: is that of pool p"),
        ('log_level = """\nloud"""\n' + POOL, ":1: log_level: "),
        ("reconcile_seconds=1\nthrottle_bytes_per_second = -1\n" + POOL, ":2: throttle_bytes"),
        (POOL + "[tls]\nkey = 'k'\ncertificate = '/c'", ":5: tls.key: must be an absolute path"),
        (POOL + "[tls]\ncertificate = '/c'", ":4: tls.key: must be a text"),
        ("", ": pool: at least one"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(StartError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/targetd.toml{place}")


def uncommented(example: str) -> str:
    """With every comment that shows a key taken as that key."""
    return re.sub(r"^#(?=[a-z_]+ = |\[)", "", example, flags=re.M)


def test_the_example_has_the_keys_that_are_read_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    take = Table._take

    def taking(table: Table, key: str, default: Any) -> Any:
        place = [str(step) for step in table._place if isinstance(step, str)]
        read.add(".".join([*place, key]))
        return take(table, key, default)

    monkeypatch.setattr(Table, "_take", taking)
    text = uncommented(EXAMPLE.read_text(encoding="utf-8"))
    load(tmp_path, text)
    shown = tomllib.loads(text)
    tables = {"tls": [shown.pop("tls")], "pool": shown.pop("pool")}
    given = {f"{name}.{key}" for name, found in tables.items() for one in found for key in one}
    assert read == {*shown, *tables, *given}


def test_every_default_is_shown_in_the_example(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    text = text.partition("# ... or a thin pool")[0]
    shown = load(tmp_path, uncommented(text))
    assert replace(shown, tls=None) == load(tmp_path, text)


BEFORE = config.Config(
    pools=(PoolConfig("a", "vg"), PoolConfig("b", "vg", "thin", WipePolicy.NONE)),
    tls=config.TlsConfig(Path("/c"), Path("/k"), Path("/ca")),
    listen="0.0.0.0:1",
)


def test_what_can_change_is_taken_over() -> None:
    tls = config.TlsConfig(Path("/c2"), Path("/k2"), Path("/ca2"))
    wanted = replace(
        BEFORE,
        pools=(PoolConfig("b", "vg", "thin", WipePolicy.DISCARD), PoolConfig("a", "vg")),
        tls=tls,
        log_level="debug",
        reconcile_seconds=0,
        throttle_bytes_per_second=5,
    )
    found, fixed = config.merge(BEFORE, replace(wanted, pools=wanted.pools[::-1]))
    assert fixed == []
    assert (found.tls, found.log_level, found.reconcile_seconds) == (tls, "debug", 0)
    assert found.throttle_bytes_per_second == 5
    assert [pool.wipe for pool in found.pools] == [WipePolicy.ZERO, WipePolicy.DISCARD]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"state_directory": Path("/x")}, "state_directory"),
        ({"socket": Path("/x")}, "socket"),
        ({"listen": "0.0.0.0:2"}, "listen"),
        ({"iqn_prefix": "iqn.2026-01.org.example"}, "iqn_prefix"),
        ({"portal_addresses": ("192.0.2.1",)}, "portal_addresses"),
        ({"portal_port": 1}, "portal_port"),
        ({"chap_per_export": True}, "chap"),
        ({"tls": None}, "tls"),
        ({"pools": (PoolConfig("a", "vg"),)}, "pool"),
        ({"pools": (PoolConfig("a", "other"), *BEFORE.pools[1:])}, "pool"),
    ],
)
def test_what_cannot_change_stays_and_is_named(change: dict[str, Any], key: str) -> None:
    found, fixed = config.merge(BEFORE, replace(BEFORE, **change, log_level="debug"))
    assert fixed == [key]
    assert found == replace(BEFORE, log_level="debug")


def test_every_part_of_the_configuration_is_either() -> None:
    names = {one.name for one in fields(config.Config)}
    assert names >= config.CHANGEABLE
    assert names >= set(config.KEYS)


def test_what_the_host_lacks_is_a_warning(tmp_path: Path) -> None:
    none = tmp_path / "none"
    file = tmp_path / "file"
    file.touch()
    found = warnings(
        config.Config(
            pools=BEFORE.pools,
            tls=config.TlsConfig(none, none, none),
            portal_addresses=("127.0.0.1", "192.0.2.77"),
            socket=file / "targetd.sock",
        )
    )
    assert found == [
        "portal_addresses: this host has no address 192.0.2.77",
        f"{none} cannot be read: No such file or directory; see [tls]",
        "[tls] is given, but not listen: gRPC is not served over TCP",
        f"{file} is not a directory",
    ]


def test_check_config_says_them(tmp_path: Path) -> None:
    path = tmp_path / "targetd.toml"
    path.write_text('portal_addresses = ["192.0.2.77"]\n' + POOL)
    argv = [sys.executable, "-m", "targetd", "--check-config", "--config", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{path}: ok\n")
    assert "warning: portal_addresses: this host has no address 192.0.2.77" in done.stderr
    path.write_text(POOL + "wipe = 1\n")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith(f"targetd: {path}:4: pool[0].wipe: ")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        config.load(tmp_path / "none.toml")
