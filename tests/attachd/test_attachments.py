"""The attachment calls, on a real targetd with simulated engines."""

from __future__ import annotations

from attachd.model import AttachStatus, VolumeStatus
from tests.attachd.site import CALLER, Site, connector


def test_reserve_connect_complete_delete(site: Site) -> None:
    volume_id = site.volume()
    attachments = site.service.attachments
    made = attachments.create(CALLER, volume_id, instance_uuid="i")
    assert made.attach_status is AttachStatus.RESERVED
    assert site.status(volume_id) is VolumeStatus.RESERVED
    assert not site.connections(volume_id)
    attachments.update(CALLER, made.id, connector())
    assert site.status(volume_id) is VolumeStatus.ATTACHING
    site.agree(volume_id)
    attachments.complete(CALLER, made.id)
    assert site.status(volume_id) is VolumeStatus.IN_USE
    site.agree(volume_id)
    attachments.delete(CALLER, made.id)
    assert site.status(volume_id) is VolumeStatus.AVAILABLE
    site.agree(volume_id)
