"""A real Cinder on this machine's loopback, with all its state in one folder."""

from __future__ import annotations

import re
from pathlib import Path

from lab.bench.attachd.processes import Program, module
from lab.bench.cinder import FOLDER

START_SECONDS = 180.0
INTERPRETER = str(FOLDER / "bin" / "python")
PACKAGE = "lab.bench.attachd.inside_cinder"
# Its defaults but for what names, reaches and limits it.
CONFIGURATION = f"""\
[DEFAULT]
host = bench
auth_strategy = noauth
transport_url = fake://
state_path = {{folder}}
log_file = {{folder}}/cinder.log
api_paste_config = {FOLDER}/etc/cinder/api-paste.ini
resource_query_filters_file = {FOLDER}/etc/cinder/resource_filters.json
enabled_backends = nothing
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = 0
quota_volumes = -1
quota_gigabytes = -1
# Else it waits a minute for volume managers of other processes.
scheduler_driver_init_wait_time = 1

[nothing]
volume_driver = {PACKAGE}.volume_driver.NothingDriver
volume_backend_name = nothing

[database]
connection = sqlite:///{{folder}}/cinder.sqlite

[oslo_concurrency]
lock_path = {{folder}}/locks
"""


class Cinder(Program):
    """Raises LabError when it does not start."""

    def __init__(self, folder: Path) -> None:
        configuration = folder / "cinder.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder), encoding="utf-8")
        argv = module(
            *(f"{PACKAGE}.serve", "--config-file", str(configuration)), interpreter=INTERPRETER
        )
        super().__init__("cinder", argv, folder / "output")
        try:
            self.port = int(self.wait_for(_port, START_SECONDS))
        # Whatever it was, it is raised again; also Ctrl-C.
        except BaseException:
            self.close()
            raise


def _port(output: str) -> str | None:
    found = re.search(r"^port (\d+)$", output, re.MULTILINE)
    return found[1] if found else None
