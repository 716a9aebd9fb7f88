"""What the README tells a newcomer to do, done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lab.storage import ROOT
from targetd.api.v1 import volume_pb2
from tests.hosts import MEBIBYTE, Host, LabBacking

pytestmark = pytest.mark.lab

README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO_SECONDS_MAX = 300


def test_make_demo_holds_and_leaves_nothing() -> None:
    before = _traces()
    done = subprocess.run(
        ["make", "demo"],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every step held" in done.stdout
    assert "WRONG" not in done.stdout
    assert '"auth_password": "***"' in done.stdout
    # Other labs come and go meanwhile, each with the id of its process in its names.
    left = {path for path in _traces() - before if not psutil.pid_exists(int(path.split("-")[1]))}
    assert left == set()


def _traces() -> set[str]:
    found = [*Path("/run/netns").glob("tlab-*"), *Path("/dev/shm").glob("tlab-*")]
    return {str(path) for path in found}


def test_the_example_of_the_driver_runs(lab_host: Host, lab_backing: LabBacking) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (volume_id,) = re.findall(r'{"id": "([0-9a-f-]+)"}', example)
    lab_host.volumes.CreateVolume(
        volume_pb2.CreateVolumeRequest(volume_id=volume_id, pool="thin", size_bytes=MEBIBYTE)
    )
    lab_backing.storage.node.run(
        [sys.executable, "-c", example],
        environment={"PYTHONPATH": f"{ROOT}:{ROOT}/drivers"},
    )
    assert lab_backing.kernel() == {}
