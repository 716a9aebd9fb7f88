from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.node import Node
from lab.storage import ROOT

# The version of the second package: as the Makefile has it.
LATER = "99.0"


def _make_packages(program: str) -> Path:
    """Unless they are there: tests that run side by side need the same, and one makes them."""
    made = ROOT / "build" / "packages"
    made.mkdir(parents=True, exist_ok=True)
    argv = ["flock", str(made), "make", "--silent", f"build/packages/{program}"]
    # Not a part of the make that these tests may be run by.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    subprocess.run(argv, cwd=ROOT, env=environment, check=True)
    return made


@pytest.fixture(scope="session")
def packages() -> Iterator[Future[Path]]:
    """The folder of two packages of targetd, made while a lab boots: each takes its time."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(_make_packages, "targetd")


@pytest.fixture(scope="session")
def attachd_packages() -> Iterator[Future[Path]]:
    """The same of attachd."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(_make_packages, "attachd")


def prepare_for_packages(node: Node) -> None:
    """What apt-get and dpkg are to find on a node, which has the file system of this machine."""
    # Where this machine is a container, it starts no services at an installation.
    node.run(["rm", "-f", "/usr/sbin/policy-rc.d"])
    # Reading all manual pages that this machine has takes longer than the installation.
    node.run(["rm", "-f", "/var/lib/man-db/auto-update"])
    # And so does reading all that Debian has, of which a node can fetch nothing.
    node.run(["rm", "-rf", "/var/lib/apt/lists"])
    node.run(["mkdir", "--parents", "/var/lib/apt/lists/partial"])
