"""A volume driver for Cinder that does nothing: what is left is Cinder's own cost."""

from __future__ import annotations

from typing import Any

from cinder import interface
from cinder.volume import driver

PORTAL = "192.0.2.1:3260"
IQN_PREFIX = "iqn.2010-10.org.openstack:volume-"
ENDLESS_GIB = 1 << 20


# Where types are checked, Cinder is not there.
@interface.volumedriver
class NothingDriver(driver.BaseVD):  # type: ignore[misc]
    """Answers as a driver of an iSCSI target, at once, and neither makes nor remembers one."""

    VERSION = "1"
    # Cinder warns of drivers without one.
    CI_WIKI_NAME = "none"

    def do_setup(self, context: Any) -> None: ...

    def check_for_setup_error(self) -> None: ...

    def _update_volume_stats(self) -> None:
        self._stats = {
            "volume_backend_name": "nothing",
            "vendor_name": "nobody",
            "driver_version": self.VERSION,
            "storage_protocol": "iSCSI",
            "total_capacity_gb": ENDLESS_GIB,
            "free_capacity_gb": ENDLESS_GIB,
            "multiattach": True,
            "shared_targets": False,
        }

    def create_volume(self, volume: Any) -> None: ...

    def delete_volume(self, volume: Any) -> None: ...

    def create_snapshot(self, snapshot: Any) -> None: ...

    def delete_snapshot(self, snapshot: Any) -> None: ...

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None: ...

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None: ...

    def extend_volume(self, volume: Any, new_size: int) -> None: ...

    def local_path(self, volume: Any) -> str:
        raise NotImplementedError

    def ensure_export(self, context: Any, volume: Any) -> None: ...

    def create_export(self, context: Any, volume: Any, connector: Any) -> None: ...

    def remove_export(self, context: Any, volume: Any) -> None: ...

    def initialize_connection(self, volume: Any, connector: Any) -> dict[str, Any]:
        return {
            "driver_volume_type": "iscsi",
            "data": {
                "target_discovered": False,
                "target_portal": PORTAL,
                "target_iqn": f"{IQN_PREFIX}{volume.id}",
                "target_lun": 0,
                "volume_id": volume.id,
                "auth_method": "CHAP",
                "auth_username": "user",
                "auth_password": "password",
            },
        }

    def terminate_connection(self, volume: Any, connector: Any, **more: Any) -> bool:
        return False
