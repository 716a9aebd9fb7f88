"""Named places between two steps at which a test may stop the daemon.

``TARGETD_FAILPOINT=name`` in the environment makes the process kill itself
with SIGKILL when it comes to that place: a crash at exactly that instruction.
``name@N`` waits for the Nth passing. ``hang:name`` makes the thread stay there
for ever, with all that it holds. ``file:path`` kills at the place that the file
names at that moment, and removes the file: once. Nothing else reads the variable.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

_setting = os.environ.get("TARGETD_FAILPOINT", "")
_file = Path(_setting.removeprefix("file:")) if _setting.startswith("file:") else None
_hangs = _setting.startswith("hang:")
_name, _, _count = _setting.removeprefix("hang:").partition("@")
_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    if _file is not None:
        _stop_as_told(_file, name)
    if name != _name:
        return
    _passed[name] += 1
    if _passed[name] < int(_count or 1):
        return
    if _hangs:
        threading.Event().wait()
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_as_told(file: Path, name: str) -> None:
    if file.exists() and file.read_text(encoding="utf-8") == name:
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
