"""Run by the Python of the field's clients: volumes, snapshots, attachments by openstacksdk.

The URL of the service is the argument, and a token, if there is to be one; what was seen is
printed as JSON.
"""

import json
import sys
import uuid
from typing import Any

import openstack

url, *token = sys.argv[1:]
auth: dict[str, Any] = {"auth_type": "none", "block_storage_endpoint_override": f"{url}/v3/project"}
if token:
    auth = {"auth_type": "admin_token", "auth": {"endpoint": f"{url}/v3", "token": token[0]}}
connection = openstack.connection.Connection(**auth)
storage = connection.block_storage
seen: dict[str, Any] = {}

volume = storage.create_volume(size=1, name="sdk", metadata={"a": "b"})
volume = storage.wait_for_status(volume, "available", interval=1, wait=30)
seen["volume"] = [volume.name, volume.size, volume.status, volume.project_id, volume.metadata]
storage.extend_volume(volume, 2)
seen["extended"] = storage.get_volume(volume).size
seen["found"] = storage.find_volume("sdk").id == volume.id
storage.update_volume(volume, name="renamed")
storage.set_volume_metadata(volume, c="d")
seen["renamed"] = [(one.name, one.metadata) for one in storage.volumes()]

snapshot = storage.create_snapshot(volume_id=volume.id, name="taken")
seen["snapshots"] = [(one.name, one.status, one.size) for one in storage.snapshots()]
copy = storage.create_volume(snapshot_id=snapshot.id, name="copy")
copy = storage.wait_for_status(copy, "available", interval=1, wait=30)
seen["copy"] = [copy.size, copy.snapshot_id == snapshot.id]
storage.delete_volume(copy)
storage.delete_snapshot(snapshot)

connector = {"initiator": "iqn.2026-01.org.example.lab:a", "host": "a", "multipath": False}
instance = str(uuid.uuid4())
attachment = storage.create_attachment(volume, connector=None, instance=instance)
seen["reserved"] = [attachment.status, attachment.instance == instance]
attachment = storage.update_attachment(attachment.id, connector=connector)
seen["connected"] = [attachment.status, attachment.connection_info["driver_volume_type"]]
storage.complete_attachment(attachment.id)
attachment = storage.get_attachment(attachment.id)
seen["completed"] = [attachment.status, storage.get_volume(volume).status]
seen["attachments"] = [one.volume_id == volume.id for one in storage.attachments()]
storage.delete_attachment(attachment.id)

attachment = storage.create_attachment(volume, connector=connector, instance=instance)
seen["at once"] = [attachment.status, attachment.connection_info["target_lun"]]
storage.delete_attachment(attachment.id)
seen["types"] = sorted(one.name for one in storage.types())
seen["zones"] = [one.name for one in storage.availability_zones()]
seen["extensions"] = len(list(storage.extensions())) > 3
seen["limits"] = storage.get_limits().absolute.total_volumes_used
storage.delete_volume(volume)
seen["left"] = len(list(storage.volumes()))
print(json.dumps(seen))
