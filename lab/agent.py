"""The host's end of the line to a node: commands in, output and status out."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from typing import Any

from lab.errors import CommandFailed, CommandTimeout, LabError, NodeDown

# The node ends a late command itself; the host waits this much longer for the word.
GRACE_SECONDS = 10.0
READY = 0
# A terminal of the node takes 4 KiB; filled, it throttles its line, which then stays
# silent for ever. So less than that is on the way at once; the node tells what it took.
WINDOW_BYTES = 3 << 10
PIECE_BYTES = 1 << 10

Message = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """How a command in a node ended: ``out`` and ``err`` as they came, or as text."""

    status: int
    out: bytes
    err: bytes

    @property
    def stdout(self) -> str:
        return self.out.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.err.decode(errors="replace")


class Process:
    """A program left running in a node; its output goes to the file ``log`` there."""

    def __init__(self, agent: Agent, pid: int, log: str) -> None:
        self._agent = agent
        self.pid = pid
        self.log = log

    def poll(self) -> int | None:
        """Its status (-N when signal N ended it), or None while it runs."""
        status: int | None = self._agent.ask({"do": "poll", "pid": self.pid})["status"]
        return status

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the program and all that it started in its session."""
        self._agent.ask({"do": "kill", "pid": self.pid, "signal": int(number)})

    def wait(self, timeout_seconds: float = 60.0) -> int:
        """Its status. Raises CommandTimeout when it runs on; it is not ended then."""
        request = {"do": "wait", "pid": self.pid, "timeout": timeout_seconds}
        return int(self._agent.ask(request, timeout_seconds)["status"])

    def output(self) -> str:
        return self._agent.read(self.log).decode(errors="replace")


class Agent:
    """One node's agent, for use by several threads. ``window_bytes``: see WINDOW_BYTES."""

    def __init__(self, line: socket.socket, window_bytes: int = WINDOW_BYTES) -> None:
        self._line = line
        self._window_bytes = window_bytes
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._taken = threading.Condition(self._lock)
        self._on_the_way = 0
        self._torn = False
        self._down = False
        self._next = READY + 1
        self._ready: Future[Message] = Future()
        self._waiting: dict[int, Future[Message]] = {READY: self._ready}
        self._reader = threading.Thread(target=self._read, name="lab-agent", daemon=True)
        self._reader.start()

    def wait_ready(self, seconds: float) -> None:
        """Raises CommandTimeout when the node does not come up, NodeDown when it ended."""
        _result(self._ready, "boot", seconds)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes,
        environment: Mapping[str, str],
        cwd: str,
        timeout_seconds: float,
        check: bool,
    ) -> Result:
        request = {
            **_program(argv, environment, cwd),
            "do": "run",
            "stdin": base64.b64encode(stdin).decode(),
            "timeout": timeout_seconds,
        }
        answer = self.ask(request, timeout_seconds)
        result = Result(
            answer["status"],
            base64.b64decode(answer["stdout"]),
            base64.b64decode(answer["stderr"]),
        )
        if check and result.status:
            raise CommandFailed(argv, result.status, result.stderr or result.stdout)
        return result

    def start(
        self, argv: Sequence[str], *, environment: Mapping[str, str], cwd: str, log: str
    ) -> Process:
        answer = self.ask({**_program(argv, environment, cwd), "do": "start", "log": log})
        return Process(self, answer["pid"], answer["log"])

    def read(self, path: str) -> bytes:
        return base64.b64decode(self.ask({"do": "read", "path": path})["data"])

    def write(self, path: str, data: bytes, mode: int) -> None:
        encoded = base64.b64encode(data).decode()
        self.ask({"do": "write", "path": path, "data": encoded, "mode": mode})

    def ask(self, request: Message, timeout_seconds: float = 0.0) -> Message:
        """Raises CommandTimeout, NodeDown, and LabError for what the node could not do."""
        # Neither input nor environment: they may hold secrets.
        what = " ".join(request.get("argv", (request["do"], str(request.get("path", "")))))
        answer = _result(self._send(request), what, timeout_seconds + GRACE_SECONDS)
        if answer.get("error") == "timeout":
            raise CommandTimeout(f"{what}: not done in {timeout_seconds:g} s")
        if "error" in answer:
            raise LabError(f"{what}: {answer['error']}")
        return answer

    def _send(self, request: Message) -> Future[Message]:
        future: Future[Message] = Future()
        with self._lock:
            if self._down:
                raise NodeDown("the node is not running; boot it first")
            number, self._next = self._next, self._next + 1
            self._waiting[number] = future
        with self._sending:
            # A line that was given up half-way is closed, and ignored by the node.
            start = b"\n" if self._torn else b""
            self._torn = True
            self._transmit(start + json.dumps({"id": number, **request}).encode() + b"\n")
            self._torn = False
        return future

    def _transmit(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            with self._taken:
                if not self._taken.wait_for(partial(self._room, len(piece)), GRACE_SECONDS):
                    raise CommandTimeout(f"the node took no input for {GRACE_SECONDS:g} s")
                self._on_the_way += len(piece)
            try:
                self._line.sendall(piece)
            except OSError as error:
                raise NodeDown("the node went down") from error

    def _room(self, size: int) -> bool:
        return self._down or self._on_the_way + size <= self._window_bytes

    def _read(self) -> None:
        pieces: list[bytes] = []
        while data := self._receive():
            *whole, rest = data.split(b"\n")
            for end_of_line in whole:
                self._deliver(b"".join([*pieces, end_of_line]))
                pieces = []
            pieces.append(rest)
        self._end()

    def _receive(self) -> bytes:
        try:
            return self._line.recv(1 << 20)
        except OSError:
            return b""

    def _deliver(self, text: bytes) -> None:
        try:
            answer = json.loads(text)
        except ValueError:
            return  # the kernel or a login prompt may write to the line too
        if "taken" in answer:
            with self._taken:
                self._on_the_way -= answer["taken"]
                self._taken.notify_all()
            return
        with self._lock:
            future = self._waiting.pop(answer["id"], None)
        if future is not None:
            future.set_result(answer)

    def _end(self) -> None:
        with self._taken:
            self._down = True
            self._taken.notify_all()
            left, self._waiting = list(self._waiting.values()), {}
        for future in left:
            future.set_exception(NodeDown("the node went down"))

    def close(self) -> None:
        # A close alone would not wake the reader.
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._line.close()


def _program(argv: Sequence[str], environment: Mapping[str, str], cwd: str) -> Message:
    return {"argv": list(argv), "env": dict(environment), "cwd": cwd}


def _result(future: Future[Message], what: str, seconds: float) -> Message:
    try:
        return future.result(timeout=seconds)
    except FutureTimeout:
        raise CommandTimeout(f"{what}: the node did not answer in {seconds:g} s") from None
