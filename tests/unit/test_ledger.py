"""The comparison after a power cut finds what it is there to find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.agreement import Seen, disagreements
from lab.ledger import (
    Attachment,
    Findings,
    Ledger,
    ReleasedState,
    SnapshotState,
    State,
    VolumeState,
)
from targetd.api.v1 import export_pb2, volume_pb2

ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
IQN = "iqn.2026-01.org.example:x"
INITIATOR = "iqn.2026-01.org.example:a"
PLAIN = VolumeState("thin", 4 << 20, False)
EXPORTED = replace(PLAIN, exported=True)
ASKED = Attachment("a-1", INITIATOR, export_pb2.ACCESS_MODE_RW)
ANSWERED = replace(ASKED, properties=export_pb2.ConnectionProperties(auth_password="one"))
OTHER = replace(ASKED, properties=export_pb2.ConnectionProperties(auth_password="two"))
CONNECTED = EXPORTED.with_attachment(ANSWERED)
SNAPSHOT = SnapshotState(ID, "thin", 4 << 20, "marker")
# Made by a copy, which goes on after the answer.
FILLING = replace(PLAIN, source=f"snapshot {ID}", content="marker", filling=True)
FILLED = replace(FILLING, filling=False)
RELEASED = ReleasedState("thin", 4 << 20, PLAIN.content)
NOTHING = "nothing in flight"


def _compare(before: State | None, after: State | str | None, seen: State | None) -> Findings:
    ledger = Ledger()
    if before is not None:
        ledger.begin(ID, "make", before)
        ledger.acknowledge(ID, before)
    if not isinstance(after, str):
        ledger.begin(ID, "call", after)
    return ledger.compare({} if seen is None else {ID: seen})


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        (PLAIN, NOTHING, PLAIN),
        (CONNECTED, NOTHING, CONNECTED),
        (None, PLAIN, None),
        (None, PLAIN, PLAIN),
        (PLAIN, None, None),
        (PLAIN, None, PLAIN),
        (EXPORTED, EXPORTED.with_attachment(ASKED), EXPORTED),
        # Nobody was told a secret yet, so any is right.
        (EXPORTED, EXPORTED.with_attachment(ASKED), CONNECTED),
        (SNAPSHOT, NOTHING, SNAPSHOT),
        (None, SNAPSHOT, None),
        (SNAPSHOT, None, SNAPSHOT),
        (FILLING, NOTHING, FILLED),
        (None, FILLING, FILLED),
        (FILLING, FILLED, FILLED),
        (PLAIN, RELEASED, PLAIN),
        (PLAIN, RELEASED, RELEASED),
        (RELEASED, PLAIN, RELEASED),
        (RELEASED, PLAIN, PLAIN),
    ],
)
def test_what_is_right(before: State | None, after: State | str | None, seen: State | None) -> None:
    found = _compare(before, after, seen)
    assert found.lines == []
    assert found.done + found.undone == (after != NOTHING)


def test_what_was_found_is_the_next_comparisons_start() -> None:
    ledger = Ledger()
    ledger.begin(ID, "snapshot", SNAPSHOT)
    ledger.compare({ID: SNAPSHOT})
    assert ledger.compare({}).losses


@pytest.mark.parametrize(
    ("before", "after", "seen", "kind", "words"),
    [
        (PLAIN, NOTHING, None, "LOST", "volume thin"),
        (PLAIN, NOTHING, replace(PLAIN, content="other"), "LOST", "content"),
        (replace(PLAIN, size_bytes=8 << 20), NOTHING, PLAIN, "LOST", "size 8388608"),
        (EXPORTED, NOTHING, PLAIN, "LOST", "export"),
        (CONNECTED, NOTHING, EXPORTED, "LOST", "connection a-1"),
        (CONNECTED, NOTHING, EXPORTED.with_attachment(OTHER), "LOST", "properties a-1"),
        # Of a call for another thing of the volume.
        (CONNECTED, replace(CONNECTED, size_bytes=8 << 20), EXPORTED, "LOST", "connection a-1"),
        (None, NOTHING, PLAIN, "LEAKED", "volume thin"),
        (PLAIN, NOTHING, EXPORTED, "LEAKED", "export"),
        (EXPORTED, NOTHING, CONNECTED, "LEAKED", "connection a-1"),
        (EXPORTED, None, PLAIN, "ORPHANED", "half done"),
        (SNAPSHOT, NOTHING, None, "LOST", "snapshot thin"),
        (SNAPSHOT, NOTHING, replace(SNAPSHOT, content="later"), "LOST", "content marker"),
        (SNAPSHOT, NOTHING, replace(SNAPSHOT, volume_id="other"), "LOST", f"of {ID}"),
        (None, NOTHING, SNAPSHOT, "LEAKED", "snapshot thin"),
        (FILLING, NOTHING, replace(FILLED, content="empty"), "LOST", "content marker"),
        (FILLING, NOTHING, replace(FILLED, source=""), "LOST", "source snapshot"),
        (RELEASED, NOTHING, None, "LOST", "released thin"),
        # Still the daemon's, after the caller was told that it is not.
        (RELEASED, NOTHING, PLAIN, "LEAKED", "volume thin"),
        (PLAIN, NOTHING, RELEASED, "LOST", "volume thin"),
    ],
)
def test_what_is_found(
    before: State | None,
    after: State | str | None,
    seen: State | None,
    kind: str,
    words: str,
) -> None:
    lines = _compare(before, after, seen).lines
    assert any(line.startswith(kind) and words in line for line in lines), lines


def _seen() -> Seen:
    connection = export_pb2.Connection(
        volume_id=ID,
        attachment_id="a-1",
        initiator=INITIATOR,
        access_mode=export_pb2.ACCESS_MODE_RW,
        state=export_pb2.CONNECTION_STATE_GRANTED,
        authorized=True,
    )
    acl = {"username": "u", "password": "p", "read_only": False, "mapped": "lun_0"}
    device = f"/dev/storage/volume-{ID}"
    return Seen(
        volumes={
            ID: volume_pb2.Volume(
                volume_id=ID, size_bytes=4 << 20, state=volume_pb2.VOLUME_STATE_AVAILABLE
            )
        },
        snapshots={},
        exports={ID: export_pb2.Export(volume_id=ID, target_iqn=IQN, portals=["192.0.2.1:3260"])},
        connections={(ID, "a-1"): connection},
        node={
            "logical_volumes": {f"volume-{ID}": 4 << 20},
            "targets": {
                IQN: {
                    "enabled": True,
                    "authentication": True,
                    "open_to_all": False,
                    "portals": ["192.0.2.1:3260"],
                    "backstore": f"volume-{ID}",
                    "acls": {INITIATOR: acl},
                }
            },
            "adapters": [
                [{"name": f"volume-{ID}", "enabled": True, "device": device, "serial": ID}]
            ],
            "records": {
                "exports": [ID],
                "connections": [[ID, "a-1", "granted"]],
                "creating": [],
            },
        },
    )


def test_agreement_is_seen() -> None:
    assert disagreements(_seen()) == []


def _filling(seen: Seen) -> Seen:
    """The volume is being filled from a snapshot of its own."""
    volume = seen.volumes[ID]
    volume.state, volume.source_volume_id = volume_pb2.VOLUME_STATE_COPYING, "other"
    return seen


def test_a_copys_own_snapshot_has_its_place_while_the_volume_is_filled() -> None:
    seen = _seen()
    seen.node["logical_volumes"][f"source-{ID}"] = 4 << 20
    assert any("without volumes" in line for line in disagreements(seen))
    assert disagreements(_filling(seen)) == [f"volume {ID} is VOLUME_STATE_COPYING"]
    del seen.node["logical_volumes"][f"source-{ID}"]
    assert any("without logical volumes" in line for line in disagreements(seen))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("logical_volumes/volume-x", 4 << 20, "logical volumes without volumes"),
        (f"logical_volumes/volume-{ID}", None, "volumes and snapshots without logical volumes"),
        (f"logical_volumes/volume-{ID}", 8 << 20, "8388608 bytes in LVM"),
        ("targets/iqn.2026-01.org.example:y", {}, "targets without exports"),
        (f"targets/{IQN}", None, "exports without targets"),
        (f"targets/{IQN}/enabled", False, "enabled is False"),
        (f"targets/{IQN}/authentication", False, "authentication is False"),
        (f"targets/{IQN}/portals", [], "portals is []"),
        (f"targets/{IQN}/acls/iqn.2026-01.org.example:b", {}, "without connected"),
        (f"targets/{IQN}/acls/{INITIATOR}", None, "connected without ACLs"),
        (f"targets/{IQN}/acls/{INITIATOR}/read_only", True, "read_only is True"),
        ("adapters", [], "exports without backstores"),
        ("adapters", [[]], "an adapter has 0 backstores"),
        ("records/exports", [], "exports without records"),
        ("records/connections", [], "granted connections without records"),
        ("records/connections", [[ID, "a-1", "revoking"]], "records of connections without"),
        ("records/creating", [ID], "has no end"),
    ],
)
def test_disagreements_are_seen(path: str, value: object, words: str) -> None:
    seen = _seen()
    *folders, name = path.split("/")
    place = seen.node
    for folder in folders:
        place = place[folder]
    assert isinstance(place, dict)
    if value is None:
        del place[name]
    else:
        place[name] = value
    assert any(words in line for line in disagreements(seen)), disagreements(seen)
