"""Puts what systemd needs of targetd where systemd looks, and takes it away again.

The files are those of the folder ``systemd``, which the wheel carries. Data and
configuration are never overwritten, and never removed.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from targetd.engines import process
from targetd.engines.process import ProcessFailed

log = logging.getLogger(__name__)

UNIT = "targetd.service"
CONFIGURATION = "etc/targetd/targetd.toml"
# For each file the folders of the administrator, and of a distribution's package.
FOLDERS = {
    UNIT: ("etc/systemd/system", "lib/systemd/system"),
    "sysusers.conf": ("etc/sysusers.d", "usr/lib/sysusers.d"),
    "tmpfiles.conf": ("etc/tmpfiles.d", "usr/lib/tmpfiles.d"),
    "modules-load.conf": ("etc/modules-load.d", "usr/lib/modules-load.d"),
}
# What the unit of the source says.
COMMANDS = "/usr/bin/"
# What is somebody's data.
KEPT = ("etc/targetd", "var/lib/targetd")


def install(root: Path, bin_directory: Path, vendor: bool = False) -> list[Path]:
    """Write the files below ``root``; returns those that were written.

    ``bin_directory`` is where ``targetd`` is found once it runs. ``vendor`` is for
    packages of a distribution. On the running host (root "/") they take effect at
    once, but the daemon is neither enabled nor started. Raises OSError.
    """
    written = [_write(root, name, bin_directory, vendor) for name in FOLDERS]
    configuration = root / CONFIGURATION
    if not configuration.exists():
        _put(configuration, _source("targetd.toml"))
        written.append(configuration)
    if _is_here(root):
        _take_effect()
    return written


def uninstall(root: Path) -> list[Path]:
    """Remove what ``install`` wrote but for the configuration; returns what was left.

    On the running host the daemon is stopped, which leaves the kernel's exports as
    they are. Raises OSError.
    """
    here = _is_here(root)
    if here:
        _try("systemctl", "disable", "--now", UNIT)
    for name in FOLDERS:
        _place(root, name, vendor=False).unlink(missing_ok=True)
    if here:
        _try("systemctl", "daemon-reload")
    return [root / name for name in KEPT if (root / name).exists()]


def _write(root: Path, name: str, bin_directory: Path, vendor: bool) -> Path:
    path = _place(root, name, vendor)
    _put(path, _source(name).replace(COMMANDS + "targetd", f"{bin_directory}/targetd"))
    return path


def _place(root: Path, name: str, vendor: bool) -> Path:
    own = name if name == UNIT else "targetd.conf"
    return root / FOLDERS[name][vendor] / own


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _source(name: str) -> str:
    here = Path(__file__).resolve().parent
    # In a checkout the folder stands beside the package.
    folder = here / "systemd" if (here / "systemd").is_dir() else here.parent / "systemd"
    return (folder / name).read_text(encoding="utf-8")


def _is_here(root: Path) -> bool:
    return root == Path("/") and Path("/run/systemd/system").is_dir()


def _take_effect() -> None:
    _try("systemd-sysusers", "targetd.conf")
    _try("systemd-tmpfiles", "--create", "targetd.conf")
    _try("/lib/systemd/systemd-modules-load", "/etc/modules-load.d/targetd.conf")
    _try("systemctl", "daemon-reload")


def _try(*argv: str) -> None:
    """What fails here is said, and met again when the daemon starts."""
    try:
        process.run(argv)
    except (OSError, ProcessFailed) as error:
        log.warning("%s", error)


def main() -> None:
    parser = argparse.ArgumentParser(prog="targetd.install", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="default: %(default)s")
    parser.add_argument(
        "--bin", type=Path, default=Path("/usr/bin"), help="where targetd is; default: %(default)s"
    )
    parser.add_argument("--vendor", action="store_true", help="for a distribution's package")
    parser.add_argument("--remove", action="store_true")
    arguments = parser.parse_args()
    if arguments.remove:
        for path in uninstall(arguments.root):
            print(f"left: {path}")
        return
    for path in install(arguments.root, arguments.bin, arguments.vendor):
        print(path)


if __name__ == "__main__":
    main()
