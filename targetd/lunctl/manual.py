"""The manual page and the reference, from the commands themselves.

``python -m targetd.lunctl.manual`` writes docs/lunctl.1 and docs/lunctl.md; with
``--check`` it only says whether they are current, and ends with 1 when not.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from targetd.lunctl.cli import PROGRAM, root
from targetd.lunctl.exits import MEANINGS

DOCS = Path(__file__).resolve().parents[2] / "docs"

INTRODUCTION = (
    "lunctl speaks gRPC to one targetd daemon: on its unix socket, or over TCP with mutual TLS. "
    "It has no state and no configuration of its own.",
    "local-attach, local-detach and get-connector are for hosts that attach volumes: they speak to "
    "attachd, over TLS or its unix socket, and not to a storage host. --tls-ca, and where a proxy "
    "asks for them --tls-certificate and --tls-key, are theirs too.",
    "Ids are printed in full, so that they can be copied. On a narrow terminal tables leave out "
    "columns and say which; in a pipe every column is printed, one row on a line. There is colour "
    "only on a terminal, and none where NO_COLOR is set.",
    "All changes may be repeated: the same command again finishes what the first one began, or "
    "tells that it is done. Waiting (--wait) can be left with Ctrl-C; the work goes on.",
)
JSON = (
    "With --json each command prints one document: one thing as it is in the contract "
    '(targetd/api/v1), a list as {"volumes": [...]}, all pages of it. Names are those of the '
    "contract, in snake_case; sizes are numbers, in bytes; times are RFC 3339 texts in UTC; states "
    "are the contract's names, such as VOLUME_STATE_AVAILABLE. Every field is there but times and "
    "messages that are not set. watch, and operation watch, print one document on a line.",
    'What fails prints {"error": {message, reason, metadata, hints, exit_status}} on stderr; '
    "reason is the daemon's stable word. A mistake in the command line itself is told in plain "
    "text.",
)
SECRETS = (
    "CHAP secrets are printed as ***, in JSON too, unless --show-secret is given. --secret-file "
    "writes them to a new file that only its owner can read. They are never arguments.",
    "local-attach prints none: it writes them into open-iscsi's records, which only root can read. "
    "The token for attachd is read from a file, standard input or the environment.",
)
FILES = (
    ("/run/targetd/targetd.sock", "The daemon's socket; who may open it is its group's."),
    ("/etc/targetd/targetd.toml", "The daemon's configuration, which doctor reads."),
    ("/run/attachd/attachd.sock", "attachd's socket, for attaching on its own host."),
    ("/etc/iscsi/initiatorname.iscsi", "This host's name, which attachd gives access to."),
)


@dataclass(frozen=True)
class Entry:
    """One command, as people type it."""

    name: str
    usage: str
    text: str
    options: tuple[tuple[str, str], ...]


def _entry(context: click.Context, *left_out: str) -> Entry:
    command = context.command
    pieces = " ".join(command.collect_usage_pieces(context))
    records = (
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and parameter.name not in left_out
    )
    options = tuple((record[0], " ".join(record[1].split())) for record in records if record)
    text = inspect.cleandoc(command.help or "")
    return Entry(context.command_path, f"{context.command_path} {pieces}", text, options)


def entries() -> Iterator[Entry]:
    """All commands that do something, in the order of the help."""
    outer = click.Context(root, info_name=PROGRAM)
    for name in root.list_commands(outer):
        command = root.get_command(outer, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=outer)
        if not isinstance(command, click.Group):
            yield _entry(context, "json")
            continue
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield _entry(click.Context(found, info_name=inner, parent=context), "json")


def global_entry() -> Entry:
    return _entry(click.Context(root, info_name=PROGRAM))


def _paragraphs(text: str) -> Iterator[tuple[str, bool]]:
    """Each with whether its lines stay as they are (click's \\b)."""
    for paragraph in text.strip().split("\n\n"):
        verbatim = paragraph.startswith("\b")
        lines = paragraph.removeprefix("\b\n").splitlines()
        yield ("\n" if verbatim else " ").join(line.strip() for line in lines), verbatim


# Markdown


def markdown() -> str:
    lines = [
        "# lunctl",
        "",
        "<!-- Made by python -m targetd.lunctl.manual; change the commands, not this file. -->",
        "",
        f"{root.help} The same as a manual page: [lunctl.1](lunctl.1).",
        "",
    ]
    for text in INTRODUCTION:
        lines += [text, ""]
    lines += ["## Options of every command", "", *_markdown_options(global_entry())]
    lines += ["## Exit statuses", "", "| status | meaning |", "|---|---|"]
    lines += [f"| {int(status)} | {meaning} |" for status, meaning in MEANINGS.items()]
    for title, texts in (("JSON", JSON), ("Secrets", SECRETS)):
        lines += ["", f"## {title}", ""]
        lines += ["\n\n".join(texts)]
    lines += ["", "## Commands", ""]
    for entry in entries():
        lines += [f"### {entry.name}", "", f"    {entry.usage}", ""]
        for text, verbatim in _paragraphs(entry.text):
            indented = "\n".join(f"    {line}" for line in text.splitlines())
            lines += [indented if verbatim else text, ""]
        lines += _markdown_options(entry)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_options(entry: Entry) -> list[str]:
    if not entry.options:
        return []
    rows = [f"| `{name}` | {text} |" for name, text in entry.options]
    return ["| option | |", "|---|---|", *rows, ""]


# Troff


def troff() -> str:
    lines = [
        f'.TH {PROGRAM.upper()} 1 "" targetd',
        ".SH NAME",
        f"{PROGRAM} \\- look at a targetd storage host, and change it",
        ".SH SYNOPSIS",
        f".B {PROGRAM}",
        "[OPTIONS] COMMAND [ARGUMENTS]",
        ".SH DESCRIPTION",
        *_troff_texts(INTRODUCTION),
        ".SH OPTIONS",
        "They may stand before or after the command.",
        *_troff_options(global_entry()),
        ".SH COMMANDS",
    ]
    for entry in entries():
        lines += [f".SS {_escaped(entry.usage)}"]
        for text, verbatim in _paragraphs(entry.text):
            lines += [".nf", _escaped(text), ".fi"] if verbatim else [".PP", _escaped(text)]
        lines += _troff_options(entry)
    lines += [".SH EXIT STATUS"]
    for status, meaning in MEANINGS.items():
        lines += [".TP", f".B {int(status)}", _escaped(meaning)]
    lines += [".SH JSON", *_troff_texts(JSON), ".SH SECRETS", *_troff_texts(SECRETS), ".SH FILES"]
    for path, text in FILES:
        lines += [".TP", f".I {_escaped(path)}", _escaped(text)]
    lines += [".SH SEE ALSO", ".BR targetd.toml (5),", ".BR lvm (8),", ".BR iscsiadm (8)"]
    return "\n".join(lines) + "\n"


def _troff_texts(texts: tuple[str, ...]) -> list[str]:
    return [line for text in texts for line in (".PP", _escaped(text))]


def _troff_options(entry: Entry) -> list[str]:
    lines = []
    for name, text in entry.options:
        lines += [".TP", f".B {_escaped(name)}", _escaped(text)]
    return lines


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    # A line that begins with one of these would be a request.
    return "\n".join(f"\\&{line}" if line[:1] in ".'" else line for line in escaped.splitlines())


def main() -> None:
    files = {DOCS / "lunctl.1": troff(), DOCS / "lunctl.md": markdown()}
    if sys.argv[1:] == ["--check"]:
        old = [path.name for path, text in files.items() if path.read_text("utf-8") != text]
        if old:
            sys.exit(f"{', '.join(old)}: not current; run: python -m targetd.lunctl.manual")
        return
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
