from __future__ import annotations

import pytest

from targetd.engines import process
from targetd.engines.lio import parse_session
from targetd.engines.process import ProcessFailed

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
