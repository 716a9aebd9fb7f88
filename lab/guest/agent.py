"""Runs commands in a node, asked for over a line in lines of JSON.

``agent.py``: over the node's serial line, which works while the network is cut.
``agent.py -``: over standard input and output, until they end: of a connection of
ssh, over which a command then costs far less than one of ssh's own. Requests are
served side by side; data travels as base64.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import tty
from collections.abc import Callable
from typing import Any

LINE = "/dev/ttyS0"
LOGS = "/run/lab"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# After a late command was killed, its pipes may still be held by a process of
# another session; its output is not waited for longer than this.
DRAIN_SECONDS = 2.0
# The host sends only so much ahead; each time this much was read, it is told.
TELL_BYTES = 1 << 10
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as a shell has it

Message = dict[str, Any]

write_lock = threading.Lock()
background: dict[int, subprocess.Popen[bytes]] = {}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def answer(output: int, message: Message) -> None:
    data = json.dumps(message).encode() + b"\n"
    with write_lock:
        while data:
            data = data[os.write(output, data) :]


def spawn(request: Message, stdin: int, output: int, errors: int) -> subprocess.Popen[bytes]:
    environment = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **request["env"]}
    return subprocess.Popen(
        request["argv"],
        stdin=stdin,
        stdout=output,
        stderr=errors,
        env=environment,
        cwd=request["cwd"],
        # A session of its own, so that all that it starts can be ended with it.
        start_new_session=True,
    )


def run(request: Message) -> Message:
    try:
        child = spawn(request, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE)
    except OSError as error:
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        return {"status": status, "stdout": "", "stderr": encode(str(error).encode())}
    try:
        out, err = child.communicate(base64.b64decode(request["stdin"]), request["timeout"])
    except subprocess.TimeoutExpired:
        end(child, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=DRAIN_SECONDS)
        raise
    return {"status": child.returncode, "stdout": encode(out), "stderr": encode(err)}


def start(request: Message) -> Message:
    path = request["log"] or f"{LOGS}/started-{request['id']}.log"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab", buffering=0) as log:
        child = spawn(request, subprocess.DEVNULL, log.fileno(), log.fileno())
    background[child.pid] = child
    return {"pid": child.pid, "log": path}


def end(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def kill(request: Message) -> Message:
    end(background[request["pid"]], request["signal"])
    return {}


def poll(request: Message) -> Message:
    return {"status": background[request["pid"]].poll()}


def wait(request: Message) -> Message:
    return {"status": background[request["pid"]].wait(request["timeout"])}


def read(request: Message) -> Message:
    with open(request["path"], "rb") as file:
        return {"data": encode(file.read())}


def write(request: Message) -> Message:
    os.makedirs(os.path.dirname(request["path"]), exist_ok=True)
    new = f"{request['path']}.lab-new"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, request["mode"]), "wb") as file:
        os.fchmod(file.fileno(), request["mode"])
        file.write(base64.b64decode(request["data"]))
    os.replace(new, request["path"])
    return {}


VERBS: dict[str, Callable[[Message], Message]] = {
    verb.__name__: verb for verb in (run, start, kill, poll, wait, read, write)
}


def serve(output: int, request: Message) -> None:
    try:
        result = VERBS[request["do"]](request)
    except subprocess.TimeoutExpired:
        result = {"error": "timeout"}
    except (OSError, ValueError, KeyError) as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    answer(output, {"id": request["id"], **result})


def take(output: int, text: bytes) -> None:
    try:
        request = json.loads(text)
    except ValueError:
        return  # a request that the host gave up half-way
    threading.Thread(target=serve, args=(output, request), daemon=True).start()


def lines() -> tuple[int, int]:
    """Where requests come from, and answers go to."""
    if sys.argv[1:] == ["-"]:
        return sys.stdin.fileno(), sys.stdout.fileno()
    line = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    return line, line


def main() -> None:
    source, output = lines()
    answer(output, {"id": 0})
    pieces: list[bytes] = []
    taken = 0
    while data := os.read(source, 1 << 16):
        taken += len(data)
        if taken >= TELL_BYTES:
            answer(output, {"taken": taken})
            taken = 0
        *whole, rest = data.split(b"\n")
        for end_of_line in whole:
            take(output, b"".join([*pieces, end_of_line]))
            pieces = []
        pieces.append(rest)


if __name__ == "__main__":
    main()
