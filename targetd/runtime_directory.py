"""Who may get at the daemon's unix socket: root, and the group targetd where there is one."""

from __future__ import annotations

import grp
import logging
import os

log = logging.getLogger(__name__)

GROUP = "targetd"


def give_to_group() -> None:
    """systemd gives the folder that it makes for the socket to root, at each start anew.

    Another folder, of an administrator who keeps the socket elsewhere, stays as it is.
    """
    folder = os.environ.get("RUNTIME_DIRECTORY")
    if folder is None:
        return
    try:
        os.chown(folder, -1, grp.getgrnam(GROUP).gr_gid)
    except (KeyError, PermissionError) as error:
        log.warning("only root can use the socket, since there is no group %s: %s", GROUP, error)
