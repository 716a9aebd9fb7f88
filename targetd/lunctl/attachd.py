"""attachd, for the commands that speak to it: where it is, who asks, and what its errors mean."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from targetd.lunctl.errors import CommandError
from targetd.lunctl.exits import Exit
from targetd.lunctl.output import note
from targetd.lunctl.parameters import COMPLETION_SECONDS, COMPLETIONS_MAX
from targetd.lunctl.settings import Settings

if TYPE_CHECKING:
    from targetd_local import Attachd, LocalError, LocalVolumes

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

DEFAULT_URL = "unix:/run/attachd/attachd.sock"
# A storage host may take half of it.
SECONDS = 60.0
TOKEN_VARIABLE = "LUNCTL_TOKEN"
STDIN = "-"
TOKEN_BYTES_MAX = 4096
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OF_CODES: Mapping[int, Exit] = {
    400: Exit.REFUSED,
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    409: Exit.REFUSED,
    413: Exit.NO_SPACE,
    503: Exit.UNREACHABLE,
    504: Exit.LATE,
}
OF_KINDS: Mapping[str, Exit] = {
    "Invalid": Exit.USAGE,
    "NotRoot": Exit.NOT_ALLOWED,
    "Refused": Exit.REFUSED,
    "InUse": Exit.REFUSED,
    "LoginFailed": Exit.UNREACHABLE,
    "DiskMissing": Exit.LATE,
    "Unreachable": Exit.UNREACHABLE,
    "Interrupted": Exit.INTERRUPTED,
}
NO_TOKEN = (
    "Give a token: --token-file FILE, or LUNCTL_TOKEN_FILE. On attachd's host: "
    "attachd token add --project NAME"
)
NOT_THERE = (
    "Where is it? --url URL, or LUNCTL_URL. There: systemctl status attachd",
    "TLS with an authority of your own: --tls-ca FILE",
)


@dataclass(frozen=True)
class Access:
    """As the options give it."""

    url: str
    project: str
    token_file: str

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Access:
        return cls(*(parameters.get(name) or "" for name in ("url", "project", "token_file")))

    def attachd(self, settings: Settings, seconds: float = SECONDS) -> Attachd:
        from targetd_local import Attachd

        try:
            return Attachd(
                self.url or DEFAULT_URL,
                project=self.project,
                token=_token(self.token_file),
                ca=settings.tls_ca,
                certificate=settings.tls_certificate,
                key=settings.tls_key,
                seconds=settings.seconds(seconds),
            )
        except ValueError as error:
            raise CommandError(str(error), Exit.USAGE) from None


def _token(file: str) -> str:
    """Never of an argument, which everybody on the host can read."""
    if not file:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        if file == STDIN:
            text = sys.stdin.read(TOKEN_BYTES_MAX)
        else:
            text = Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise CommandError(f"{file}: no token to be read: {why}", Exit.USAGE) from None
    token = text.strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise CommandError(f"{file}: there is not one token in it, on one line", Exit.USAGE)
    return token


def access_options(command: Decorated) -> Decorated:
    """Passes ``access`` to the command."""
    for option in reversed(_options()):
        command = option(command)
    return command


def _options() -> list[Callable[[Decorated], Decorated]]:
    return [
        click.option(
            "--url",
            envvar="LUNCTL_URL",
            show_envvar=True,
            help=f"Where attachd is: https://HOST:8776, or unix:PATH. Default: {DEFAULT_URL}.",
            metavar="URL",
        ),
        click.option(
            "--project",
            envvar="LUNCTL_PROJECT",
            show_envvar=True,
            help="The project. Default: the token's own.",
            metavar="NAME",
        ),
        click.option(
            "--token-file",
            envvar="LUNCTL_TOKEN_FILE",
            show_envvar=True,
            help=f"A file with the token; {STDIN} for standard input. The token itself can be in "
            f"{TOKEN_VARIABLE}.",
            metavar="FILE",
        ),
    ]


@contextmanager
def local_volumes(**options: str | None) -> Iterator[LocalVolumes]:
    """Volumes of attachd on this host. Ctrl-C, SIGTERM and SIGHUP undo what is under way."""
    from targetd_local import LocalError, LocalVolumes

    attachd = Access.of(options).attachd(Settings.of(click.get_current_context()))
    with _stopping() as stop:
        try:
            yield LocalVolumes(attachd, stop=stop)
        except LocalError as error:
            raise explained(error) from None
        except OSError as error:
            # What was not undone is in its notes.
            notes = tuple(getattr(error, "__notes__", ()))
            raise CommandError(f"{error.filename or ''}: {error.strerror}", hints=notes) from None


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            note("interrupted: undoing what was done ...")
        stop.set()

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def explained(error: LocalError) -> CommandError:
    from targetd_local import AttachdError

    kind = type(error).__name__
    status, reason = OF_KINDS.get(kind, Exit.OTHER), _upper(kind)
    if isinstance(error, AttachdError):
        status = OF_CODES.get(error.code, Exit.OTHER)
        # As HTTP calls it, such as CONFLICT.
        reason = responses.get(error.code, reason).replace(" ", "_").upper()
    hints = (*_left(error), *_hints(error, status))
    return CommandError(str(error), status, reason=reason, hints=hints)


def _left(error: LocalError) -> Iterator[str]:
    if error.left:
        yield from (f"Not undone: {one}" for one in error.left)
        yield "lunctl local-detach VOLUME removes what is left."


def _hints(error: LocalError, status: Exit) -> tuple[str, ...]:
    kind = type(error).__name__
    if kind == "Unreachable":
        return NOT_THERE
    if kind == "AttachdError" and status is Exit.NOT_ALLOWED:
        return (NO_TOKEN,)
    if kind == "Interrupted" and not error.left:
        return ("Nothing is left of it.",)
    if kind == "InUse":
        return ("Unmount it, or end what has it open; then repeat the command.",)
    return ()


def _upper(name: str) -> str:
    """InUse is IN_USE."""
    return "".join(f"_{one}" if one.isupper() else one for one in name).strip("_").upper()


def complete_remote(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[Any]]:
    """The volumes of the project; nothing where attachd does not answer in time."""
    from targetd_local import LocalError

    access = Access.of(context.params)
    if access.token_file == STDIN:
        return []
    try:
        found = access.attachd(Settings.of(context), COMPLETION_SECONDS).volumes()
    except (CommandError, LocalError):
        return []
    return _fitting(incomplete, found)


def complete_local(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[Any]]:
    """The volumes that this host is logged in to."""
    from targetd_local.kernel import Kernel

    sessions = Kernel().sessions()
    return _fitting(incomplete, [(one.target.rpartition(":")[2], one.portal) for one in sessions])


def _fitting(incomplete: str, found: list[tuple[str, str]]) -> list[CompletionItem[Any]]:
    items = [CompletionItem(name, help=word) for name, word in dict(found).items()]
    return [item for item in items if item.value.startswith(incomplete)][:COMPLETIONS_MAX]
