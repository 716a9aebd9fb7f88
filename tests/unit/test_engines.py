from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from targetd.engines import process
from targetd.engines.lio import parse_session
from targetd.engines.lvm_records import read_inventory, volume_tags
from targetd.engines.process import ProcessFailed
from targetd.model import PoolConfig, Source, SourceKind, Volume

INFO = """\
InitiatorName: iqn.2026-01.org.example:a
InitiatorAlias: a
LIO Session ID: 7   ISID: 0x00 02 3d 01 00 00  TSIH: 1  SessionType: Normal
Session State: TARG_SESS_STATE_LOGGED_IN
---------------------[iSCSI Session Values]-----------------------
  CmdSN/WR  :  CmdSN/WC  :  ExpCmdSN  :  MaxCmdSN  :     ITT    :     TTT
----------------------[iSCSI Connections]-------------------------
CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN
   Address 10.77.0.12 TCP  StatSN: 0x12345678
CID: 1  Connection State: TARG_CONN_STATE_LOGGED_IN
   Address fd77::12 TCP  StatSN: 0x12345678
"""


def test_a_session_is_read_from_its_acl() -> None:
    session = parse_session("iqn.2026-01.org.example:a", INFO)
    assert session is not None
    assert session.session_id == "7"
    assert session.state == "LOGGED_IN"
    assert session.peer_addresses == ("10.77.0.12", "fd77::12")
    assert parse_session("x", "No active iSCSI Session for Initiator Endpoint: x") is None


def test_a_program_gets_no_shell_and_the_c_locale() -> None:
    done = process.run(["printf", "%s", "$HOME; `id`"])
    assert done.stdout == "$HOME; `id`"
    assert "LC_ALL=C\n" in process.run(["env"]).stdout


def test_a_failure_has_status_and_words() -> None:
    with pytest.raises(ProcessFailed, match="no-such-file") as caught:
        process.run(["ls", "/no-such-file"])
    assert caught.value.status == 2


def test_a_late_program_is_ended() -> None:
    with pytest.raises(ProcessFailed) as caught:
        process.run(["sleep", "60"], timeout_seconds=0.1)
    assert caught.value.status == -15


def test_much_output_does_not_block() -> None:
    assert len(process.run(["head", "-c", "3000000", "/dev/zero"]).stdout) == 3_000_000


def row_of(volume: Volume, lv_name: str) -> dict[str, str]:
    return {
        "vg_name": "storage",
        "lv_name": lv_name,
        "lv_size": str(volume.size_bytes),
        "lv_tags": ",".join(["somebodys", *volume_tags(volume)]),
        "pool_lv": "",
        "lv_time": "1767323045",
        "lv_attr": "-wi-a-----",
        "origin": "",
        "origin_size": "",
        "data_percent": "",
    }


def test_what_lvm_remembers_comes_back_as_it_was() -> None:
    pool = PoolConfig("thick", "storage")
    volume = Volume(
        volume_id="3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        pool=pool,
        size_bytes=4 << 20,
        multi_attach=True,
        create_time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        source=Source(SourceKind.SNAPSHOT, "9b2504e0-4f89-41d3-9a0c-0305e82c3301"),
        copy_id="3f2504e0-4f89-41d3-9a0c-0305e82c3301-0123456789ab",
    )
    adopted = replace(volume, source=None, copy_id="", adopted_name="data")
    for one in (volume, adopted):
        (found,) = read_inventory([row_of(one, one.lv_name)], [pool]).volumes
        wanted = one.create_time if one is volume else datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert found == replace(one, create_time=wanted)


@pytest.mark.parametrize("was", ["data", "volume-3f2504e0-4f89-41d3-9a0c-0305e82c3399"])
def test_an_adoption_that_was_not_finished_is_a_stray(was: str) -> None:
    pool = PoolConfig("thick", "storage")
    volume_id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
    made = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    volume = Volume(volume_id, pool, 4 << 20, False, made, adopted_name=was)
    before = read_inventory([row_of(volume, was)], [pool])
    assert (before.volumes, before.strays) == ([], [f"storage/{was}"])
    after = read_inventory([row_of(volume, volume.lv_name)], [pool])
    assert (after.volumes, after.strays) == ([volume], [])
