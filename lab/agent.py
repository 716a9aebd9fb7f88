"""The host's end of a node's serial line: commands in, output and status out."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from lab.errors import CommandFailed, CommandTimeout, LabError

# The node ends a late command itself; the host waits this much longer for the word.
GRACE_SECONDS = 10.0
READY = 0


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


class Agent:
    """One node's agent, for use by several threads."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._next = READY + 1
        self._waiting: dict[int, Future[dict[str, Any]]] = {READY: Future()}
        threading.Thread(target=self._read, name="lab-agent", daemon=True).start()

    def wait_ready(self, seconds: float) -> None:
        """Raises CommandTimeout when the node does not come up, LabError when it died."""
        self._result(self._waiting[READY], "boot", seconds)

    def run(
        self,
        argv: Sequence[str],
        stdin_file: str,
        environment: Mapping[str, str],
        timeout_seconds: float,
        check: bool,
    ) -> Result:
        answer = self._ask(
            {
                "argv": list(argv),
                "stdin": stdin_file,
                "env": dict(environment),
                "timeout": timeout_seconds,
                "log": "",
            },
            timeout_seconds,
        )
        result = Result(answer["status"], _text(answer["stdout"]), _text(answer["stderr"]))
        if check and result.status:
            raise CommandFailed(list(argv), result.status, result.stderr or result.stdout)
        return result

    def start(self, argv: Sequence[str], environment: Mapping[str, str], log: str) -> int:
        """Start a program and leave it running; returns its pid in the node."""
        answer = self._ask(
            {"argv": list(argv), "env": dict(environment), "log": log, "timeout": 0}, GRACE_SECONDS
        )
        return int(answer["pid"])

    def wait(self, pid: int, timeout_seconds: float) -> int:
        """Wait for a started program's end; returns its status."""
        answer = self._ask({"pid": pid, "timeout": timeout_seconds}, timeout_seconds)
        return int(answer["status"])

    def _ask(self, request: dict[str, Any], timeout_seconds: float) -> dict[str, Any]:
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._waiting[number] = future
            try:
                self._line.sendall(json.dumps({"id": number, **request}).encode() + b"\n")
            except OSError as error:
                raise LabError("the node is not running") from error
        what = " ".join(request.get("argv", ["wait"]))
        answer = self._result(future, what, timeout_seconds + GRACE_SECONDS)
        if answer.get("error") == "timeout":
            raise CommandTimeout(f"{what}: not done in {timeout_seconds:g} s")
        if "error" in answer:
            raise LabError(f"{what}: {answer['error']}")
        return answer

    def _result(self, future: Future[dict[str, Any]], what: str, seconds: float) -> dict[str, Any]:
        try:
            return future.result(timeout=seconds)
        except FutureTimeout:
            raise CommandTimeout(f"{what}: the node did not answer in {seconds:g} s") from None

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = self._line.recv(1 << 20)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                self._take(answer["id"]).set_result(answer)
        for number in list(self._waiting):
            future = self._take(number)
            if not future.done():
                future.set_exception(LabError("the node went down; its console log may say why"))

    def _take(self, number: int) -> Future[dict[str, Any]]:
        with self._lock:
            if number == READY:
                return self._waiting[number]
            return self._waiting.pop(number)

    def close(self) -> None:
        self._line.close()


def _text(data: str) -> str:
    return base64.b64decode(data).decode(errors="replace")
