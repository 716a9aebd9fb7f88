"""What LIO needs before the daemon serves: modules, the data root, no second manager."""

from __future__ import annotations

import logging
from pathlib import Path

from targetd.engines import configfs, process
from targetd.engines.process import ProcessFailed
from targetd.errors import StartError

log = logging.getLogger(__name__)

# Where reservations that outlive a reboot are kept.
DATA_ROOT = "/etc/target"
# They put a configuration of their own over ours, and clear everything when they stop.
OTHER_MANAGERS = ("target.service", "rtslib-fb-targetctl.service")


def prepare(root: str) -> None:
    """Let rtslib load the modules, mount configfs and set the data root. Raises StartError."""
    refuse_other_managers()
    # The kernel takes a data root that exists, and only before the first backstore.
    Path(DATA_ROOT).mkdir(mode=0o700, exist_ok=True)
    import rtslib_fb

    try:
        rtslib_fb.RTSRoot()
        rtslib_fb.FabricModule("iscsi")
        # The kernel makes it where the module is there.
        configfs.make_folder(f"{root}/iscsi")
    except (OSError, rtslib_fb.RTSLibError) as error:
        raise StartError(
            f"LIO cannot be used: {error}; it needs root and the modules target_core_mod, "
            "target_core_iblock and iscsi_target_mod"
        ) from error
    _check_data_root(root)


def _check_data_root(root: str) -> None:
    try:
        found = Path(root, "dbroot").read_text().strip()
    except OSError as error:
        raise StartError(f"configfs cannot be read: {error}; is it mounted?") from error
    if found != DATA_ROOT:
        log.warning(
            "the kernel keeps persistent reservations in %s, not in %s: backstores existed "
            "before targetd started",
            found,
            DATA_ROOT,
        )


def refuse_other_managers() -> None:
    """Raises StartError where systemd runs another manager of LIO."""
    try:
        shown = process.run(
            ["systemctl", "show", "--property=Id,ActiveState", *OTHER_MANAGERS]
        ).stdout
    except (OSError, ProcessFailed) as error:
        log.info("whether other managers of LIO are active cannot be asked: %s", error)
        return
    for block in shown.strip().split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        if unit.get("ActiveState") == "active":
            raise StartError(
                f"{unit.get('Id')} is active and would restore and clear targets under targetd; "
                f"run: systemctl disable --now {unit.get('Id')}"
            )
