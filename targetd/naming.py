"""What all targets have in common: the beginning of their names, and their portals."""

from __future__ import annotations

from dataclasses import dataclass

from targetd.model import Provisioning, Target, Volume


@dataclass(frozen=True)
class Naming:
    """What the configuration says of all targets."""

    iqn_prefix: str
    portals: tuple[str, ...]
    # One secret per export instead of one per connection.
    chap_per_export: bool = False

    def iqn(self, volume_id: str) -> str:
        return f"{self.iqn_prefix}:{volume_id}"

    def target(self, volume: Volume) -> Target:
        return Target(
            volume_id=volume.volume_id,
            iqn=self.iqn(volume.volume_id),
            device_path=volume.device_path,
            portals=self.portals,
            thin=volume.pool.provisioning is Provisioning.THIN,
        )
