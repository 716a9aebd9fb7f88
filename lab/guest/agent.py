"""Runs commands in a node, asked for over its serial line in lines of JSON.

The line works while the network is cut, and a command over it costs far less
than one over ssh. Requests with the same answer queue are served side by side.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
import tty
from typing import Any

LINE = "/dev/ttyS0"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

write_lock = threading.Lock()
background: dict[int, subprocess.Popen[bytes]] = {}


def answer(line: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    with write_lock:
        while data:
            data = data[os.write(line, data) :]


def run(request: dict[str, Any]) -> dict[str, Any]:
    environment = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **request["env"]}
    common: dict[str, Any] = {"env": environment, "cwd": "/", "start_new_session": True}
    if request["log"]:
        with open(request["log"], "ab") as log:
            child = subprocess.Popen(
                request["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **common
            )
        background[child.pid] = child
        return {"pid": child.pid}
    with open(request["stdin"], "rb") as stdin:
        done = subprocess.run(
            request["argv"],
            stdin=stdin,
            capture_output=True,
            timeout=request["timeout"],
            **common,
        )
    return {
        "status": done.returncode,
        "stdout": base64.b64encode(done.stdout).decode(),
        "stderr": base64.b64encode(done.stderr).decode(),
    }


def wait(request: dict[str, Any]) -> dict[str, Any]:
    return {"status": background[request["pid"]].wait(request["timeout"])}


def serve(line: int, request: dict[str, Any]) -> None:
    try:
        result = run(request) if "argv" in request else wait(request)
    except subprocess.TimeoutExpired:
        result = {"error": "timeout"}
    except OSError as error:
        result = {"error": str(error)}
    answer(line, {"id": request["id"], **result})


def main() -> None:
    line = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    answer(line, {"id": 0})
    with open(line, "rb", buffering=0, closefd=False) as requests:
        rest = b""
        while True:
            rest += requests.read(65536) or b""
            *whole, rest = rest.split(b"\n")
            for text in whole:
                threading.Thread(target=serve, args=(line, json.loads(text)), daemon=True).start()


if __name__ == "__main__":
    main()
