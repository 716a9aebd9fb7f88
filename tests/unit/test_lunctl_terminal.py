"""lunctl as a program: on narrow terminals, in pipes, interrupted, completed by a real bash."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from targetd.api.v1 import export_pb2, volume_pb2
from targetd.lunctl.exits import Exit
from tests.hosts import Host, SimulatedBacking, properties_of
from tests.lunctl import ARGV, ROOT, SECONDS, Lunctl

ESCAPE = "\x1b["
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
IQN = "iqn.2026-01.org.example.lab:a"
# Modules that take long to import.
HEAVY = ("grpc", "rich", "google.protobuf")
Complete = Callable[..., list[str]]


@pytest.fixture
def host(simulated_backing: SimulatedBacking) -> Iterator[Host]:
    made = Host(simulated_backing)
    yield made
    simulated_backing.lvm.may_step.set()
    made.close()


@pytest.fixture
def lunctl(host: Host) -> Lunctl:
    return Lunctl(host.backing.endpoint)


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_tables_fit_and_ids_are_whole(lunctl: Lunctl, host: Host, columns: int) -> None:
    volume_id = host.create()
    host.attach(volume_id, attachment_id="0b6d6f0e-9a38-4f8e-9d7e-6a2f5d9e2c11")
    for command in ("volume", "export", "connection", "pool"):
        status, written = lunctl.on_terminal(columns, command, "list")
        assert status == 0
        lines = COLOURS.sub("", written).splitlines()
        if command in ("volume", "pool"):
            assert all(len(line) <= columns or volume_id in line for line in lines), written
        assert command == "pool" or volume_id in written
    status, written = lunctl.on_terminal(columns, "connection", "list")
    assert "0b6d6f0e-9a38-4f8e-9d7e-6a2f5d9e2c11" in written and "not logged in" in written


def test_a_narrow_table_says_what_it_leaves_out(lunctl: Lunctl, host: Host) -> None:
    host.create()
    _, narrow = lunctl.on_terminal(60, "volume", "list")
    assert "(no room for POOL, MULTI, CREATED)" in narrow
    _, wide = lunctl.on_terminal(120, "volume", "list")
    assert "no room" not in wide and "CREATED" in wide
    _, narrowest = lunctl.on_terminal(50, "volume", "list")
    assert "VOLUME:" in narrowest, "a few lines for each row"


def test_colour_only_on_a_terminal(lunctl: Lunctl, host: Host) -> None:
    host.create()
    for arguments in (["status"], ["volume", "list"]):
        _, coloured = lunctl.on_terminal(100, *arguments)
        assert "\x1b[32m" in coloured
        _, plain = lunctl.on_terminal(100, *arguments, more={"NO_COLOR": "1"})
        assert "\x1b[3" not in plain
        with lunctl.start(*arguments, stdout=subprocess.PIPE) as program:
            piped, _ = program.communicate(timeout=SECONDS)
        assert ESCAPE not in piped
    _, refused = lunctl.on_terminal(100, "volume", "show", "x")
    assert "\x1b[31m" in refused
    _, refused = lunctl.on_terminal(100, "volume", "show", "x", more={"NO_COLOR": "1"})
    assert ESCAPE not in refused


def test_a_pipe_gets_every_column_of_each_row_on_one_line(lunctl: Lunctl, host: Host) -> None:
    volume_id = host.create()
    host.attach(volume_id)
    with lunctl.start(
        "connection", "list", stdout=subprocess.PIPE, more={"COLUMNS": "40"}
    ) as program:
        piped, _ = program.communicate(timeout=SECONDS)
    (row,) = [line for line in piped.splitlines() if volume_id in line]
    assert "attachment-a" in row and IQN in row and row == row.rstrip()


def test_a_host_name_cannot_move_the_cursor(lunctl: Lunctl, host: Host) -> None:
    from targetd.lunctl.human import clean

    assert clean("a\x1b[2Jb\n\u202ec") == "a?[2Jb??c"


def _copying(host: Host, backing: SimulatedBacking) -> tuple[str, list[str]]:
    backing.lvm.may_step.clear()
    origin = host.create("thick")
    volume_id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
    arguments = ["volume", "create", volume_id, "--from-volume", origin, "--pool", "thick"]
    return volume_id, arguments


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_leaves_the_work_going_on(
    lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking, as_json: bool
) -> None:
    volume_id, arguments = _copying(host, simulated_backing)
    more = ["--json"] if as_json else []
    with lunctl.start(
        *arguments, "--wait", *more, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stderr is not None
        first = program.stderr.readline()
        assert first.startswith("copy ") and "running, 0 %" in first
        program.send_signal(signal.SIGINT)
        written, said = program.communicate(timeout=SECONDS)
    operation_id = first.split()[1].rstrip(":")
    assert program.returncode == Exit.INTERRUPTED and written == ""
    assert f"lunctl operation watch {operation_id}" in said
    if as_json:
        assert json.loads(said)["error"]["metadata"]["volume_id"] == volume_id
    simulated_backing.lvm.may_step.set()
    assert host.wait_available(volume_id).state == volume_pb2.VOLUME_STATE_AVAILABLE


def test_a_bar_on_a_terminal(
    lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking
) -> None:
    _, arguments = _copying(host, simulated_backing)
    simulated_backing.lvm.may_step.set()
    status, written = lunctl.on_terminal(100, *arguments, "--wait")
    assert status == 0 and "━" in written and "available" in written


def test_waiting_goes_on_over_a_restart_of_the_daemon(
    lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking
) -> None:
    volume_id, arguments = _copying(host, simulated_backing)
    with lunctl.start(
        *arguments, "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stderr is not None
        program.stderr.readline()
        simulated_backing.crash()
        simulated_backing.lvm.may_step.set()
        written, said = program.communicate(timeout=SECONDS)
    assert program.returncode == 0, said
    assert volume_id in written and "available" in written


def test_watch_tells_of_changes(
    lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking
) -> None:
    with (
        lunctl.start("watch", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as people,
        lunctl.start("watch", "--json", stdout=subprocess.PIPE) as scripts,
    ):
        assert people.stderr and people.stdout and scripts.stdout
        assert "What follows are changes" in people.stderr.readline()
        assert json.loads(scripts.stdout.readline())["synced"] is True
        volume_id = host.create()
        assert f"volume {volume_id}: available, 16 MiB in thin" in people.stdout.readline()
        change = json.loads(scripts.stdout.readline())
        assert change["volume"]["volume_id"] == volume_id and change["revision"] > 0
        lunctl.run("volume", "delete", volume_id, "--yes")
        assert f"volume {volume_id}: removed" in people.stdout.readline()
        for program in (people, scripts):
            program.send_signal(signal.SIGINT)
            assert program.wait(SECONDS) == Exit.INTERRUPTED
        assert people.stderr.read() == ""


def test_watch_of_one_volume(lunctl: Lunctl, host: Host) -> None:
    host.create()
    mine = host.create()
    with lunctl.start("watch", "--volume", mine, "--json", stdout=subprocess.PIPE) as program:
        assert program.stdout
        lines = [json.loads(program.stdout.readline()) for _ in range(2)]
        program.send_signal(signal.SIGINT)
    assert lines[0]["volume"]["volume_id"] == mine and lines[1]["synced"]


def test_a_reader_that_goes_away_is_no_fault(lunctl: Lunctl, host: Host) -> None:
    with lunctl.start("watch", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout and program.stderr
        program.stdout.readline()
        program.stdout.close()
        end = time.monotonic() + SECONDS
        while program.poll() is None and time.monotonic() < end:
            host.create(size_bytes=1)
            time.sleep(0.05)
        assert program.returncode == 1
        assert "Traceback" not in program.stderr.read()


def test_no_secret_in_any_output(
    lunctl: Lunctl, host: Host, simulated_backing: SimulatedBacking
) -> None:
    volume_id = host.create()
    properties = properties_of(host.attach(volume_id))
    simulated_backing.log_in("a", properties)
    secret = properties["auth_password"]
    create = ["connection", "create", volume_id, "--initiator", IQN, "--attachment", "attachment-a"]
    for arguments in (
        create,
        ["connection", "list"],
        ["connection", "show", volume_id, "attachment-a"],
        ["export", "create", volume_id],
        ["export", "show", volume_id],
        ["session", "list"],
        ["status"],
        ["why", volume_id],
    ):
        for more in ([], ["--json"]):
            assert secret not in lunctl.run(*arguments, *more).output
    assert secret in lunctl.run(*create, "--show-secret").stdout, "it is the one looked for"


def test_a_secret_of_an_export_is_masked() -> None:
    from targetd.lunctl.documents import document

    export = export_pb2.Export(auth_username="user", auth_password="secret")
    assert document(export)["auth_password"] == "***"
    assert document(export, show_secrets=True)["auth_password"] == "secret"


# Completion


@pytest.fixture
def complete(lunctl: Lunctl, tmp_path: Path) -> Complete:
    """What a real bash offers for a line, with the script that lunctl prints."""
    script = tmp_path / "completion"
    script.write_text(lunctl.run("completion", "bash").stdout)
    program = tmp_path / "lunctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m targetd.lunctl "$@"\n')
    program.chmod(0o755)

    def run(*words: str, endpoint: str = lunctl.endpoint) -> list[str]:
        quoted = " ".join(f"'{word}'" for word in words)
        line = (
            f"source {script}; complete -p lunctl >&2; COMP_WORDS=({quoted}); "
            f"COMP_CWORD={len(words) - 1}; _lunctl_completion lunctl; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        environment = lunctl.environment
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
        environment["LUNCTL_ENDPOINT"] = endpoint
        done = subprocess.run(
            ["bash", "--norc", "-c", line],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
        )
        assert done.stderr == "complete -o nosort -F _lunctl_completion lunctl\n", "and no more"
        return [word for word in done.stdout.splitlines() if word]

    return run


def test_completion_in_bash(complete: Complete, host: Host) -> None:
    volume_id, other = sorted([host.create(), host.create("thick")])
    snapshot_id = host.snapshot(volume_id)
    host.attach(volume_id)
    assert "volume" in complete("lunctl", "v") and "host" not in complete("lunctl", "v")
    assert complete("lunctl", "volume", "ex") == ["extend"]
    assert complete("lunctl", "volume", "show", "") == [volume_id, other]
    assert complete("lunctl", "why", volume_id[:8]) == [volume_id]
    assert complete("lunctl", "snapshot", "show", "") == [snapshot_id]
    assert complete("lunctl", "volume", "create", "--pool", "th") == ["thick", "thin"]
    assert complete("lunctl", "export", "show", "") == [volume_id]
    assert complete("lunctl", "connection", "show", volume_id, "") == ["attachment-a"]
    assert complete("lunctl", "connection", "show", other, "") == []
    assert complete("lunctl", "volume", "create", "--from-s") == ["--from-snapshot"]
    offered = complete("lunctl", "volume", "list", "--")
    assert "--json" in offered and "--endpoint" not in offered


def test_completion_without_a_daemon_is_silent(complete: Complete) -> None:
    assert complete("lunctl", "volume", "show", "", endpoint="unix:/nowhere") == []


# As their completion systems call the script: they hand over the words, and take what it offers.
ZSH = """\
compdef() {{ }}
compadd() {{ print -rl -- $completions }}
_describe() {{ print -rl -- ${{completions_with_descriptions%%:*}} }}
source {script}
words=({words})
CURRENT={count}
_lunctl_completion
"""
FISH = """\
source {script}
complete --do-complete="{words}" | string split --fields 1 \\t
"""
OTHER_SHELLS = {"zsh": (["zsh", "-f", "-c"], ZSH), "fish": (["fish", "--no-config", "-c"], FISH)}


@pytest.mark.parametrize("shell", OTHER_SHELLS)
def test_completion_in_other_shells(lunctl: Lunctl, host: Host, tmp_path: Path, shell: str) -> None:
    argv, text = OTHER_SHELLS[shell]
    if not shutil.which(argv[0]):
        pytest.skip(f"{shell} is not installed; lab/packages.sh does that")
    script = tmp_path / "completion"
    script.write_text(lunctl.run("completion", shell).stdout)
    program = tmp_path / "lunctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m targetd.lunctl "$@"\n')
    program.chmod(0o755)
    volume_id = host.create()
    environment = lunctl.environment
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"

    def offered(words: str) -> list[str]:
        line = text.format(script=script, words=words, count=len(words.split()))
        done = subprocess.run(
            [*argv, line],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS,
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert offered("lunctl volume ex") == ["extend"]
    assert offered(f"lunctl why {volume_id[:4]}") == [volume_id]


# Start


def _imported(*arguments: str, endpoint: str = "") -> str:
    """The modules that a start of the program imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "targetd.lunctl", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT}/drivers",
            "PYTHONUTF8": "1",
            "LUNCTL_ENDPOINT": endpoint,
        },
    )
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], HEAVY),
        (["--version"], HEAVY),
        (["volume", "--help"], ("grpc", "rich")),
        (["volume", "create", "--help"], ("grpc", "rich")),
    ],
)
def test_help_does_without_what_takes_long(arguments: list[str], heavy: tuple[str, ...]) -> None:
    imported = _imported(*arguments)
    assert "targetd.lunctl.cli" in imported
    for name in heavy:
        assert not re.search(rf"\| +{re.escape(name)}(\.|$)", imported, re.MULTILINE), name


def test_a_list_does_without_bars(lunctl: Lunctl, host: Host) -> None:
    host.create()
    imported = _imported("volume", "list", endpoint=lunctl.endpoint)
    assert re.search(r"\| +grpc$", imported, re.MULTILINE)
    assert not re.search(r"\| +rich(\.|$)", imported, re.MULTILINE)


def test_the_program_starts_as_its_command_line_says() -> None:
    done = subprocess.run([*ARGV, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lunctl, version ")
