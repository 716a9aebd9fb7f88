"""Who may open the daemon's unix socket: root, and the group targetd where there is one."""

from __future__ import annotations

import grp
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

GROUP = "targetd"
MODE = 0o660


def open_to_group(path: Path) -> None:
    """The socket was made for root alone; a host without the group leaves it so."""
    try:
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    except (KeyError, PermissionError) as error:
        log.info("only this user may use %s: no group %s (%s)", path, GROUP, error)
        return
    path.chmod(MODE)
