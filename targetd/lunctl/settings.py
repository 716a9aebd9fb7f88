"""The options that every command has: where the daemon is, how long to wait, which output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

DEFAULT_ENDPOINT = "unix:/run/targetd/targetd.sock"
DEFAULT_SECONDS = 30.0
KEY = "lunctl."


@dataclass(frozen=True)
class Settings:
    endpoint: str = DEFAULT_ENDPOINT
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    # None: each command's own.
    timeout: float | None = None
    json: bool = False

    @classmethod
    def of(cls, context: click.Context) -> Settings:
        given = {
            key.removeprefix(KEY): value
            for key, value in context.meta.items()
            if key.startswith(KEY)
        }
        return cls(**given)

    def seconds(self, default: float = DEFAULT_SECONDS) -> float:
        return default if self.timeout is None else self.timeout


def settings() -> Settings:
    """Of the command that runs."""
    return Settings.of(click.get_current_context())


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # After the command's name an option counts more than before it.
    if value not in (None, False):
        context.meta[f"{KEY}{parameter.name}"] = value


def _option(name: str, help: str, *, variable: bool, **more: Any) -> click.Option:
    upper = name.strip("-").replace("-", "_").upper()
    return click.Option(
        [name],
        help=help,
        expose_value=False,
        callback=_remember,
        envvar=f"LUNCTL_{upper}" if variable else None,
        show_envvar=True,
        **more,
    )


def global_options(inner: bool) -> Sequence[click.Option]:
    """Of the program itself, or the same after the name of an inner command."""
    file = click.Path(dir_okay=False, path_type=Path)
    outer = not inner
    endpoint = _option(
        "--endpoint",
        f"Where the daemon listens: unix:PATH, or HOST:PORT with TLS. Default: {DEFAULT_ENDPOINT}.",
        metavar="ADDRESS",
        variable=outer,
        hidden=inner,
    )
    tls = [
        _option(f"--tls-{name}", text, type=file, variable=outer, hidden=inner)
        for name, text in (
            ("ca", "The authority that signed the daemon's certificate (PEM)."),
            ("certificate", "This client's certificate (PEM)."),
            ("key", "The key of this client's certificate (PEM)."),
        )
    ]
    timeout = _option(
        "--timeout",
        f"How long to wait for each answer. Default: {DEFAULT_SECONDS:g}; reconcile: 600; "
        "local-attach and local-detach: 60.",
        type=click.FloatRange(min=0.001),
        metavar="SECONDS",
        variable=outer,
        hidden=inner,
    )
    as_json = _option("--json", "Print JSON.", is_flag=True, default=None, variable=False)
    return [endpoint, *tls, timeout, as_json]
