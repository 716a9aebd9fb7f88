"""The connection to a virtual machine, with a shell of this machine in ssh's place."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from lab.errors import CommandFailed, CommandTimeout, NodeDown
from lab.virtual import FOLDER, ROOT, Connection, Runner, VirtualMachine

# Runs what ssh would run there: what comes after the two dashes.
SSH = """\
#!/bin/sh
echo "$@" > {arguments}
while [ "$1" != -- ]; do shift; done
exec sh -c "$2"
"""
SUDO = """\
#!/bin/sh
shift
exec "$@"
"""

# As QEMU is: with a lock on its disk, and with memory that takes time to give back.
HOLDS = """\
import fcntl, mmap, sys, time
disk = open(sys.argv[1], "w")
fcntl.flock(disk, fcntl.LOCK_EX)
memory = mmap.mmap(-1, 1 << 30)
for place in range(0, len(memory), mmap.PAGESIZE):
    memory[place] = 1
print("held", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def run_qemu() -> ModuleType:
    loader = SourceFileLoader("run_qemu", str(FOLDER / "run-qemu"))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    # Where it looks for the types of its dataclasses.
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ssh and sudo; ``arguments`` in it is how ssh was called."""
    for name, text in (("ssh", SSH.format(arguments=tmp_path / "arguments")), ("sudo", SUDO)):
        program = tmp_path / name
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def connection(programs: Path) -> Iterator[Connection]:
    given = Connection("storage", programs / "config", {7788: 4567})
    yield given
    given.close()


def _run(connection: Connection, *argv: str, stdin: bytes = b"", seconds: float = 10.0) -> bytes:
    return connection.agent.run(
        argv, stdin=stdin, environment={}, cwd="/", timeout_seconds=seconds, check=True
    ).out


def test_the_agent_of_the_lab_is_at_the_other_end(connection: Connection, programs: Path) -> None:
    assert _run(connection, "echo", "here") == b"here\n"
    with pytest.raises(CommandFailed):
        _run(connection, "false")
    with pytest.raises(CommandTimeout):
        _run(connection, "sleep", "100", seconds=0.1)
    assert "-L 127.0.0.1:4567:127.0.0.1:7788 storage" in (programs / "arguments").read_text()


@pytest.mark.parametrize("size", [0, 5_000, 3_000_000])
def test_any_bytes_in_and_out(connection: Connection, size: int) -> None:
    data = os.urandom(size)
    assert _run(connection, "cat", stdin=data) == data


def test_a_program_that_goes_on_is_looked_after(connection: Connection, tmp_path: Path) -> None:
    process = connection.agent.start(
        ["sh", "-c", "echo begun; sleep 100"], environment={}, cwd="/", log=str(tmp_path / "log")
    )
    assert process.poll() is None
    process.kill()
    assert process.wait(10) == -15
    assert process.output() == "begun\n"


def test_the_agent_ends_with_the_connection(connection: Connection) -> None:
    pid = _run(connection, "sh", "-c", "echo $PPID").strip().decode()
    connection.close()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    with pytest.raises(NodeDown):
        _run(connection, "true")


def test_a_machine_that_does_not_answer_is_down(programs: Path) -> None:
    (programs / "ssh").write_text("#!/bin/sh\nexit 255\n")
    with pytest.raises(NodeDown):
        Connection("storage", programs / "config", {})


def test_a_machine_that_was_not_booted_says_so(tmp_path: Path) -> None:
    machine = VirtualMachine("a", ["192.0.2.1"], Runner("qemu"), tmp_path, tmp_path / "config")
    with pytest.raises(NodeDown, match="boot it first"):
        machine.run(["true"])


def test_run_qemu_has_vagrants_words() -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "vagrant" / "run-qemu"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for word in ("up", "halt", "ssh-config", "snapshot", "destroy"):
        assert word in said


def test_run_qemu_refuses_what_is_not_there() -> None:
    argv = [sys.executable, str(ROOT / "vagrant" / "run-qemu"), "status", "nobody"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "run-qemu: there is no machine nobody\n"


def test_a_machine_whose_power_was_cut_holds_no_disk(run_qemu: ModuleType, tmp_path: Path) -> None:
    machine = run_qemu.Machine("storage", 0, {}, [], tmp_path)
    disk = tmp_path / "disk"
    # One time alone may be a lucky one.
    for _ in range(4):
        argv = [sys.executable, "-c", HOLDS, str(disk)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout
                process.stdout.readline()
                since = run_qemu.started_at(process.pid)
                (tmp_path / "pid").write_text(f"{process.pid} {since}")
                assert machine.pid == process.pid
                machine.kill()
                assert machine.pid == 0
                with disk.open() as again:
                    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                process.kill()


def test_a_machine_that_has_just_started_runs(run_qemu: ModuleType, tmp_path: Path) -> None:
    """Also before its command line is to be seen; another process of its number is not it."""
    machine = run_qemu.Machine("storage", 0, {}, [], tmp_path)
    for _ in range(20):
        with subprocess.Popen(["sleep", "1000"]) as process:
            try:
                since = run_qemu.started_at(process.pid)
                (tmp_path / "pid").write_text(f"{process.pid} {since}")
                assert machine.pid == process.pid
                (tmp_path / "pid").write_text(f"{process.pid} {since - 1}")
                assert machine.pid == 0
            finally:
                process.kill()
    (tmp_path / "pid").write_text(f"{process.pid} 0")
    assert machine.pid == 0, "nor one that ended before it was written down"
