from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.node import Node
from lab.storage import ROOT
from targetd import __version__

# The version of the second package.
LATER = "99.0"


def _make_packages(folder: Path, program: str) -> Path:
    argv = [f"{ROOT}/package/deb.sh", str(folder), program, __version__, LATER]
    subprocess.run(argv, check=True)
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The folder of two packages of targetd, made while a lab boots: each takes its time."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(_make_packages, tmp_path_factory.mktemp("packages"), "targetd")


@pytest.fixture(scope="session")
def attachd_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The same of attachd."""
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(_make_packages, tmp_path_factory.mktemp("packages"), "attachd")


def prepare_for_packages(node: Node) -> None:
    """What apt-get and dpkg are to find on a node, which has the file system of this machine."""
    # Where this machine is a container, it starts no services at an installation.
    node.run(["rm", "-f", "/usr/sbin/policy-rc.d"])
    # Reading all manual pages that this machine has takes longer than the installation.
    node.run(["rm", "-f", "/var/lib/man-db/auto-update"])
