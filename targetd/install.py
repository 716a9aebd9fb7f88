"""Puts what systemd needs of targetd, or of attachd, where it looks, and takes it away again.

The files are those of the folder ``systemd``, which the wheel carries. Data and
configuration are never overwritten, and never removed.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

from targetd.engines import process
from targetd.engines.process import ProcessFailed

log = logging.getLogger(__name__)

# The folders of the administrator, and of a distribution's package.
UNITS = ("etc/systemd/system", "lib/systemd/system")
USERS = ("etc/sysusers.d", "usr/lib/sysusers.d")
FOLDERS = ("etc/tmpfiles.d", "usr/lib/tmpfiles.d")
MODULES = ("etc/modules-load.d", "usr/lib/modules-load.d")
# What the units of the source say.
COMMANDS = "/usr/bin/"


@dataclass(frozen=True)
class Program:
    name: str
    # Of each file of the source, beside the unit, where it goes.
    files: dict[str, tuple[str, str]]

    @property
    def unit(self) -> str:
        return f"{self.name}.service"

    @property
    def configuration(self) -> str:
        return f"etc/{self.name}/{self.name}.toml"

    @property
    def kept(self) -> tuple[str, str]:
        """What is somebody's data."""
        return (f"etc/{self.name}", f"var/lib/{self.name}")

    def places(self, root: Path, vendor: bool) -> dict[str, Path]:
        """Where each file goes."""
        places = {self.unit: root / UNITS[vendor] / self.unit}
        for source, folders in self.files.items():
            places[source] = root / folders[vendor] / f"{self.name}.conf"
        return places


TARGETD = Program(
    "targetd", {"sysusers.conf": USERS, "tmpfiles.conf": FOLDERS, "modules-load.conf": MODULES}
)
ATTACHD = Program("attachd", {"attachd-sysusers.conf": USERS, "attachd-tmpfiles.conf": FOLDERS})


def install(
    root: Path, bin_directory: Path, vendor: bool = False, program: Program = TARGETD
) -> list[Path]:
    """Write the files below ``root``; returns those that were written.

    ``bin_directory`` is where the program is found once it runs. ``vendor`` is for
    packages of a distribution. On the running host (root "/") they take effect at
    once, but the service is neither enabled nor started. Raises OSError.
    """
    command = f"{bin_directory}/{program.name}"
    written = []
    for source, path in program.places(root, vendor).items():
        _put(path, _source(source).replace(COMMANDS + program.name, command))
        written.append(path)
    configuration = root / program.configuration
    if not configuration.exists():
        _put(configuration, _source(configuration.name))
        written.append(configuration)
    if _is_here(root):
        _take_effect(program)
    return written


def uninstall(root: Path, program: Program = TARGETD) -> list[Path]:
    """Remove what ``install`` wrote but for the configuration; returns what was left.

    On the running host the service is stopped, which leaves attached hosts as they
    are. Raises OSError.
    """
    here = _is_here(root)
    if here:
        _try("systemctl", "disable", "--now", program.unit)
    for path in program.places(root, vendor=False).values():
        path.unlink(missing_ok=True)
    if here:
        _try("systemctl", "daemon-reload")
    return [root / name for name in program.kept if (root / name).exists()]


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


def _take_effect(program: Program) -> None:
    name = f"{program.name}.conf"
    _try("systemd-sysusers", name)
    _try("systemd-tmpfiles", "--create", name)
    if MODULES in program.files.values():
        _try("/lib/systemd/systemd-modules-load", f"/etc/modules-load.d/{name}")
    _try("systemctl", "daemon-reload")


def _try(*argv: str) -> None:
    """What fails here is said, and met again when the service starts."""
    try:
        process.run(argv)
    except (OSError, ProcessFailed) as error:
        log.warning("%s", error)


def main() -> None:
    parser = argparse.ArgumentParser(prog="targetd.install", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="default: %(default)s")
    parser.add_argument(
        "--bin", type=Path, default=Path("/usr/bin"), help="where it is; default: %(default)s"
    )
    parser.add_argument("--attachd", action="store_true", help="of attachd, not of targetd")
    parser.add_argument("--vendor", action="store_true", help="for a distribution's package")
    parser.add_argument("--remove", action="store_true")
    arguments = parser.parse_args()
    program = ATTACHD if arguments.attachd else TARGETD
    if arguments.remove:
        for path in uninstall(arguments.root, program):
            print(f"left: {path}")
        return
    for path in install(arguments.root, arguments.bin, arguments.vendor, program):
        print(path)


if __name__ == "__main__":
    main()
