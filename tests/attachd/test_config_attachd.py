from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from attachd import config
from attachd.commands import root
from attachd.config import Config, HostTls, IdentityKind, TlsFiles
from targetd.errors import StartError

EXAMPLE = Path(__file__).resolve().parents[2] / "systemd" / "attachd.toml"
TLS = '[tls]\ncertificate = "/c"\nkey = "/k"\n'


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "attachd.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path)


def test_nothing_is_needed(tmp_path: Path) -> None:
    found = load(tmp_path, "")
    assert found == Config()
    assert found.database_url == "sqlite:////var/lib/attachd/attachd.sqlite"
    assert found.secret_key == Path("/var/lib/attachd/key")
    assert found.address == ("127.0.0.1", 8776)
    assert found.identity is IdentityKind.TOKENS


def test_all_of_it(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
        state_directory = "/s"
        database = "postgresql+psycopg://u@h/d?passfile=/p"
        key_file = "/k"
        socket = ""
        listen = "[::]:0"
        identity = "noauth"
        noauth_anywhere = true
        public_url = "https://storage.example.org/"
        threads = 1
        host_timeout_seconds = 5
        reservation_lease_seconds = 0
        reconcile_seconds = 1
        over_subscription_max = 1
        full_percent_max = 100
        log_level = "debug"
        [tls]
        certificate = "/c"
        key = "/k"
        [host_tls]
        certificate = "/hc"
        key = "/hk"
        ca = "/ha"
        """,
    )
    assert found.database_url == "postgresql+psycopg://u@h/d?passfile=/p"
    assert found.secret_key == Path("/k") and found.socket is None
    assert found.address == ("::", 0)
    assert found.public_url == "https://storage.example.org"
    assert found.tls == TlsFiles(Path("/c"), Path("/k"))
    assert found.host_tls == HostTls(Path("/hc"), Path("/hk"), Path("/ha"))
    assert (found.threads, found.reservation_lease_seconds, found.log_level) == (1, 0, "debug")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('unknown = "x"', "attachd.toml:1: unknown"),
        ("\nthreads = 0", "attachd.toml:2: threads"),
        ("threads = 1001", "threads"),
        ('threads = "8"', "threads"),
        ('state_directory = "relative"', "state_directory"),
        ('key_file = "relative"', "key_file"),
        ('socket = "relative"', "socket"),
        (f'socket = "/{"s" * 107}"', "socket"),
        ('socket = ""\nlisten = ""', "listen"),
        ('listen = "localhost:8776"', "listen"),
        ('listen = "127.0.0.1"', "listen"),
        ('listen = "::1:8776"', "listen"),
        ('listen = "[127.0.0.1]:8776"', "listen"),
        ('listen = "127.0.0.1:65536"', "listen"),
        ('listen = "0.0.0.0:8776"', "listen_without_tls"),
        ('listen = "[::]:8776"', "needs [tls]"),
        (f'identity = "noauth"\nlisten = "192.0.2.1:8776"\n{TLS}', "noauth_anywhere"),
        ('identity = "keystone"', "identity"),
        ('noauth_anywhere = "yes"', "noauth_anywhere"),
        ('database = "mysql://u@h/d"', "database"),
        ('database = "/a/file"', "database"),
        ('public_url = "storage.example.org"', "public_url"),
        ("host_timeout_seconds = 0", "host_timeout_seconds"),
        ("reconcile_seconds = 0", "reconcile_seconds"),
        ("reservation_lease_seconds = -1", "reservation_lease_seconds"),
        ("over_subscription_max = 0", "over_subscription_max"),
        ("full_percent_max = 101", "full_percent_max"),
        ('log_level = "loud"', "log_level"),
        ('[tls]\nkey = "/k"', "tls.certificate"),
        (f"{TLS}client = 1", "tls.client"),
        ('[host_tls]\ncertificate = "/c"\nkey = "/k"', "host_tls.ca"),
        ("tls = 3", "tls"),
        ("= broken", "attachd.toml:1: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(StartError, match=r"attachd\.toml") as caught:
        load(tmp_path, text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'listen = "127.1.2.3:1"\nidentity = "noauth"',
        'listen = "[::1]:1"\nidentity = "noauth"',
        'listen = "192.0.2.1:1"\nlisten_without_tls = true',
        f'listen = "192.0.2.1:1"\n{TLS}',
        f'listen = "0.0.0.0:1"\nidentity = "noauth"\nnoauth_anywhere = true\n{TLS}',
        'listen = ""',
    ],
)
def test_a_network_needs_tls_and_tokens_unless_it_is_said(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)


def test_a_password_in_a_url_is_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        load(tmp_path, 'database = "oracle://u:hidden@h/d"')
    assert "hidden" not in str(caught.value)


def uncommented(text: str) -> str:
    """Every line that has a key, and every table, as the file shows them."""
    lines = re.findall(r"^#?(\[.+\]|[a-z_]+ = .+)$", text, re.MULTILINE)
    return "\n".join(lines)


def test_the_example_shows_every_key_with_its_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert load(tmp_path, text) == Config()
    shown = tomllib.loads(uncommented(text))
    names = {one.name for one in fields(Config)}
    assert set(shown) == names
    assert shown["state_directory"] == str(Config.state_directory)
    assert shown["socket"] == str(Config.socket)
    for name in names - {"state_directory", "socket", "key_file", "tls", "host_tls"}:
        assert shown[name] == getattr(Config, name), name
    assert not shown["key_file"] and Config.key_file is None
    for name, kind in (("tls", TlsFiles), ("host_tls", HostTls)):
        assert set(shown[name]) == {one.name for one in fields(kind)}
    # With all of it given it is taken too.
    assert load(tmp_path, uncommented(text)).tls is not None


def test_the_configuration_is_checked_by_the_program(tmp_path: Path) -> None:
    path = tmp_path / "attachd.toml"
    path.write_text("")
    answer = CliRunner().invoke(root, ["--config", str(path), "--check-config"])
    assert (answer.exit_code, answer.output) == (0, f"{path}: ok\n")
    path.write_text("\nthreads = 0\n")
    answer = CliRunner().invoke(root, ["--config", str(path), "--check-config"])
    assert answer.exit_code == 78
    assert answer.output.startswith(f"attachd: {path}:2: threads: must be")
    answer = CliRunner().invoke(root, ["--config", str(tmp_path / "none"), "--check-config"])
    assert answer.exit_code == 78 and "cannot be read" in answer.output
