"""Run by the Python of the field's clients: a volume attached and detached by python-cinderclient.

The URL of the service is the argument; what was seen is printed as JSON.
"""

import json
import sys

from cinderclient import client
from cinderclient.contrib.noauth import CinderNoAuthPlugin
from cinderclient.exceptions import ClientException
from keystoneauth1.session import Session

CONNECTOR = {
    "initiator": "iqn.2026-01.org.example.lab:a",
    "host": "a",
    "ip": "192.0.2.10",
    "platform": "x86_64",
    "os_type": "linux",
    "multipath": True,
}

session = Session(auth=CinderNoAuthPlugin("user", "project", endpoint=f"{sys.argv[1]}/v3"))
# The oldest version, in which these six are all there is.
cinder = client.Client("3.0", session=session)
volumes = cinder.volumes
volume = volumes.create(1, name="six calls").id
seen: list[list[object]] = []


def see(what: str, answer: object = None) -> None:
    seen.append([what, volumes.get(volume).status, answer])


volumes.reserve(volume)
see("reserve")
try:
    volumes.reserve(volume)
except ClientException as error:
    see("reserve again", error.code)
see("initialize_connection", dict(volumes.initialize_connection(volume, CONNECTOR)))
volumes.attach(volume, None, "/dev/vdb", mode="rw", host_name="a")
see("attach", volumes.get(volume).attachments)
volumes.begin_detaching(volume)
see("begin_detaching")
volumes.roll_detaching(volume)
see("roll_detaching")
volumes.begin_detaching(volume)
volumes.terminate_connection(volume, CONNECTOR)
see("terminate_connection")
volumes.detach(volume)
see("detach", volumes.get(volume).attachments)
volumes.reserve(volume)
volumes.unreserve(volume)
see("unreserve")
volumes.delete(volume)
print(json.dumps(seen))
