"""What the kernel tells of sessions and disks, read from sysfs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOGGED_IN = "LOGGED_IN"
# As the kernel begins the name of a disk in page 83h, and as udev and multipath do.
WWID_TYPES = {"naa.": "3", "eui.": "2", "t10.": "1"}
MULTIPATH = "mpath-"


@dataclass(frozen=True)
class Session:
    """One login: to a target, at a portal."""

    number: int
    target: str
    portal: str
    state: str
    # Names such as sda, by LUN.
    disks: dict[int, str]

    @property
    def is_up(self) -> bool:
        return self.state == LOGGED_IN


class Kernel:
    """``root`` is where the host's /sys and /proc are found."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.block = root / "sys/class/block"

    def sessions(self) -> list[Session]:
        found = []
        for folder in sorted(self.root.glob("sys/class/iscsi_session/session*")):
            # One that ends meanwhile is not there.
            with suppress(OSError):
                found.append(_session(folder))
        return found

    def sessions_of(self, targets: set[str]) -> list[Session]:
        return [session for session in self.sessions() if session.target in targets]

    def serial(self, disk: str) -> str:
        """The unit serial number of a SCSI disk (page 80h); empty while it is not known."""
        try:
            page = (self.block / disk / "device/vpd_pg80").read_bytes()
        except OSError:
            return ""
        return page[4:].decode(errors="replace").strip("\0 \n")

    def wwid(self, disk: str) -> str:
        """As udev and multipath write it: 3, then the NAA name. Empty while it is not known."""
        told = _text(self.block / disk / "device/wwid")
        return WWID_TYPES.get(told[:4], "8") + told[4:] if told else ""

    def multipath(self, wwid: str) -> str | None:
        """The multipath device of that disk, such as dm-0."""
        for folder in sorted(self.block.glob("dm-*")):
            if _text(folder / "dm/uuid") == f"{MULTIPATH}{wwid}":
                return folder.name
        return None

    def multipath_over(self, disk: str) -> str | None:
        for name in self.holders(disk):
            if self.dm_uuid(name).startswith(MULTIPATH):
                return name
        return None

    def dm_uuid(self, device: str) -> str:
        return _text(self.block / device / "dm/uuid")

    def dm_name(self, device: str) -> str:
        return _text(self.block / device / "dm/name")

    def holders(self, device: str) -> list[str]:
        return _names(self.block / device / "holders")

    def slaves(self, device: str) -> list[str]:
        return _names(self.block / device / "slaves")

    def partitions(self, device: str) -> list[str]:
        return sorted(found.parent.name for found in self.block.glob(f"{device}/*/partition"))

    def number(self, device: str) -> str:
        """MAJOR:MINOR; empty when there is no such device."""
        return _text(self.block / device / "dev")

    def exists(self, device: str) -> bool:
        return (self.block / device).exists()

    def delete(self, disk: str) -> None:
        """Let go of a SCSI disk; what is written to it but not flushed is lost."""
        with suppress(FileNotFoundError):
            (self.block / disk / "device/delete").write_text("1")


def _session(folder: Path) -> Session:
    connection = next(iter(sorted(folder.glob("device/connection*/iscsi_connection/*"))), None)
    address = _text(connection / "persistent_address") if connection else ""
    port = _text(connection / "persistent_port") if connection else ""
    return Session(
        int(folder.name.removeprefix("session")),
        (folder / "targetname").read_text().strip(),
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        _text(folder / "state"),
        {
            int(found.parent.parent.name.rpartition(":")[2]): found.name
            for found in folder.glob("device/target*/*:*:*:*/block/*")
        },
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))
