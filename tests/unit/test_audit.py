"""The audit's lines: what they hold, and what they never hold."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from targetd.api.v1 import export_pb2, volume_pb2
from targetd.roles import Role
from targetd.server import audit
from targetd.server.clients import UNIX_SOCKET, Client
from targetd.server.gate import UNREADABLE

ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
ATTACH = "/targetd.v1.ExportService/InitializeConnection"
HOSTILE = (
    "x\nINFO targetd.audit: DeleteVolume by root: OK",
    "x\r\n",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "x OK in 0 ms",
    "\0",
    "\x7f",
    "\u202egnp",
    "\u2028",
    "é" * 5000,
    "%s%n%d",
    "a" * 65000,
    'it\'s "quoted" = \\',
)


def line(request: Any, caplog: pytest.LogCaptureFixture, client: Client = UNIX_SOCKET) -> Any:
    caplog.clear()
    # The audit does not heed how quiet the daemon is.
    logging.getLogger("targetd").setLevel(logging.ERROR)
    try:
        audit.record(client, "unix:", ATTACH, request, "OK", 0.01234)
    finally:
        logging.getLogger("targetd").setLevel(logging.NOTSET)
    (record,) = caplog.records
    return record


def test_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    request = export_pb2.InitializeConnectionRequest(
        volume_id=ID,
        attachment_id="one",
        connector=export_pb2.Connector(initiator="iqn.2026-01.org.example:a", host="secret-host"),
    )
    record = line(request, caplog, Client("manager", Role.ATTACHER))
    assert record.getMessage() == (
        f"InitializeConnection volume_id={ID} attachment_id=one "
        "initiator=iqn.2026-01.org.example:a by manager (attacher, unix:): OK in 12.3 ms"
    )
    assert (record.name, record.levelno) == ("targetd.audit", logging.INFO)
    fields = {
        "identity": "manager",
        "role": "attacher",
        "peer": "unix:",
        "method": "targetd.v1.ExportService/InitializeConnection",
        "volume_id": ID,
        "snapshot_id": "",
        "attachment_id": "one",
        "initiator": "iqn.2026-01.org.example:a",
        "outcome": "OK",
        "duration_ms": 12.3,
    }
    assert {key: getattr(record, key) for key in fields} == fields


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_can_be_slipped_in(hostile: str, caplog: pytest.LogCaptureFixture) -> None:
    connector = export_pb2.Connector(initiator=hostile)
    for request in (
        volume_pb2.CreateSnapshotRequest(snapshot_id=hostile, volume_id=hostile),
        export_pb2.TerminateConnectionRequest(volume_id=ID, attachment_id=hostile),
        export_pb2.TerminateConnectionRequest(volume_id=hostile, connector=connector),
    ):
        record = line(request, caplog)
        texts = [record.getMessage()]
        texts += [record.volume_id, record.snapshot_id, record.attachment_id, record.initiator]
        for text in texts:
            assert text.isascii() and text.isprintable()
            assert len(text) < 2000
        shown = [text for text in texts[1:] if text and text != ID]
        # Quoted: it cannot pass for more fields, or for the rest of the line.
        assert shown and all(text[0] == text[-1] and text[0] in "'\"" for text in shown)


def test_other_fields_are_not_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    record = line(volume_pb2.AdoptVolumeRequest(volume_id=ID, lv_name="hidden"), caplog)
    assert "hidden" not in str(record.__dict__)


def test_an_unreadable_request_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    record = line(UNREADABLE, caplog)
    assert "InitializeConnection by unix socket (admin, unix:)" in record.getMessage()
