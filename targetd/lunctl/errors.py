"""What went wrong, for the person who typed the command: the message, and what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import click

from targetd.lunctl.exits import Exit
from targetd.lunctl.settings import Settings
from targetd.lunctl.style import BAD, colour, styled


class CommandError(click.ClickException):
    """Ends the command. With ``--json`` it is one JSON document on stderr."""

    def __init__(
        self,
        message: str,
        status: Exit = Exit.OTHER,
        *,
        reason: str = "",
        hints: tuple[str, ...] = (),
        metadata: Mapping[str, str] = {},
    ) -> None:
        super().__init__(message)
        self.status = status
        # One for each class is what click declares; what it reads is this.
        self.exit_code = int(status)  # type: ignore[misc]
        self.reason = reason or status.name
        self.hints = list(hints)
        self.metadata = dict(metadata)
        # When it is shown, the command's context has gone.
        context = click.get_current_context(silent=True)
        self._json = context is not None and Settings.of(context).json

    def document(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "reason": self.reason,
                "metadata": self.metadata,
                "hints": self.hints,
                "exit_status": int(self.status),
            }
        }

    def show(self, file: IO[Any] | None = None) -> None:
        if self._json:
            click.echo(json.dumps(self.document(), indent=2), err=True)
            return
        click.echo(f"{styled('lunctl:', BAD)} {self.message}", err=True, color=colour())
        for hint in self.hints:
            click.echo(f"  {hint}", err=True)
