"""The driver's shapes, against a daemon on simulated engines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import targetd_driver
from targetd_driver import Endpoint, TargetdDriver

from targetd.api.v1 import volume_pb2
from tests.hosts import Host, SimulatedBacking

CONNECTOR: dict[str, Any] = {
    "initiator": "iqn.2026-01.org.example:a",
    "host": "a",
    "ip": "192.0.2.9",
    "multipath": False,
    "platform": "x86_64",
    "os_type": "linux",
    "nqn": "a key that the daemon does not know",
}


@pytest.fixture
def host(simulated_backing: SimulatedBacking) -> Any:
    made = Host(simulated_backing)
    yield made
    made.close()


def test_the_whole_life_of_an_attachment(host: Host) -> None:
    volume = {"id": host.create()}
    driver = host.driver
    driver.validate_connector(CONNECTOR)
    update = driver.create_export(None, volume, CONNECTOR)
    iqn = f"iqn.2026-11.org.targetd:{volume['id']}"
    expected = {"provider_location": f"192.0.2.1:3260,1 {iqn} 0", "provider_auth": None}
    assert update == expected
    assert driver.ensure_export(None, volume) == update
    answer = driver.initialize_connection(volume, CONNECTOR)
    assert answer["driver_volume_type"] == "iscsi"
    data = answer["data"]
    assert data["target_portals"] == ["192.0.2.1:3260"]
    assert data["target_iqns"] == [iqn] and data["target_luns"] == [0]
    assert (data["auth_method"], data["access_mode"]) == ("CHAP", "rw")
    assert data["target_discovered"] is False
    assert driver.initialize_connection(volume, CONNECTOR) == answer
    with pytest.raises(targetd_driver.Refused) as caught:
        driver.remove_export(None, volume)
    assert caught.value.reason == "HAS_CONNECTIONS"
    assert driver.terminate_connection(volume, CONNECTOR) is False
    assert driver.terminate_connection(volume, CONNECTOR) is False
    driver.remove_export(None, volume)


def test_shared_is_returned_as_true(host: Host) -> None:
    volume = SimpleNamespace(id=host.create(multi_attach=True))
    host.driver.create_export(None, volume)
    other = {**CONNECTOR, "initiator": "iqn.2026-01.org.example:b"}
    for connector in (CONNECTOR, other):
        host.driver.initialize_connection(volume, connector)
    assert host.driver.terminate_connection(volume, CONNECTOR) is True
    assert host.driver.terminate_connection(volume, None) is False


def test_a_connector_ends_all_attachments_of_its_initiator(host: Host) -> None:
    volume = {"id": host.create()}
    host.driver.create_export(None, volume)
    for attachment_id in ("one", "two"):
        host.driver.initialize_connection(volume, CONNECTOR, attachment_id)
    assert host.driver.terminate_connection(volume, CONNECTOR) is False
    assert list(host.backing.kernel().values()) == [set()]


def test_mutual_chap_is_passed_on(host: Host) -> None:
    volume = {"id": host.create()}
    host.driver.create_export(None, volume)
    answer = host.driver.initialize_connection(volume, CONNECTOR, mutual_chap=True)
    assert answer["data"]["mutual_auth_username"] and answer["data"]["mutual_auth_password"]
    host.driver.terminate_connection(volume, CONNECTOR)
    answer = host.driver.initialize_connection(volume, CONNECTOR)
    assert "mutual_auth_username" not in answer["data"]


class OneSecretPerExport(SimulatedBacking):
    options = MappingProxyType({"chap_per_export": True})


def test_one_secret_per_export_is_returned_with_it(tmp_path: Path) -> None:
    backing = OneSecretPerExport(tmp_path)
    host = Host(backing)
    volume = {"id": host.create()}
    update = host.driver.create_export(None, volume)
    data = host.driver.initialize_connection(volume, CONNECTOR)["data"]
    assert update["provider_auth"] == f"CHAP {data['auth_username']} {data['auth_password']}"
    host.close()
    backing.close()


def test_errors_are_typed(host: Host) -> None:
    unknown = {"id": "3f2504e0-4f89-41d3-9a0c-0305e82c3301"}
    with pytest.raises(targetd_driver.NotFound):
        host.driver.create_export(None, unknown)
    with pytest.raises(targetd_driver.InvalidConnector, match="initiator"):
        host.driver.validate_connector({"host": "a"})
    with pytest.raises(targetd_driver.InvalidConnector, match="initiator"):
        host.driver.validate_connector({"initiator": "nonsense"})
    with pytest.raises(targetd_driver.InvalidInput, match="volume_id"):
        host.driver.create_export(None, {"id": "x"})
    with pytest.raises(targetd_driver.InvalidInput, match="access_mode"):
        host.driver.initialize_connection(unknown, CONNECTOR, access_mode="wr")


def test_a_host_that_is_down_is_unavailable() -> None:
    with (
        TargetdDriver(Endpoint("unix:/nowhere/targetd.sock"), timeout_seconds=2) as driver,
        pytest.raises(targetd_driver.Unavailable),
    ):
        driver.validate_connector(CONNECTOR)


def test_tcp_needs_tls() -> None:
    with pytest.raises(ValueError, match="tls"):
        TargetdDriver(Endpoint("192.0.2.1:7788"))


def test_it_imports_without_the_daemon() -> None:
    code = (
        "import sys, targetd_driver; "
        "wrong = {'rtslib_fb', 'psutil', 'cryptography', 'targetd.daemon'} & set(sys.modules); "
        "sys.exit(str(wrong) if wrong else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_wwid_follows_from_the_volume_id(host: Host) -> None:
    volume = host.volumes.GetVolume(volume_pb2.GetVolumeRequest(volume_id=host.create()))
    assert volume.wwid == "36001405" + volume.volume_id.replace("-", "")[:25]
