"""Two attachd over one PostgreSQL: what one has recorded, the other serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attachd.service import Service
from tests.attachd.served import NOAUTH, Served, connector, refused, served

pytestmark = pytest.mark.postgresql


def test_two_serve_the_same(postgresql_url: str, tmp_path: Path) -> None:
    config = replace(NOAUTH, database=postgresql_url, key_file=tmp_path / "key")
    with served(config) as place, place.api() as one:
        other = Service(replace(config, state_directory=tmp_path))
        other.start()
        try:
            with Served(other, place.backings, tmp_path).api() as two:
                made = [one.volume(name=name, metadata={"n": name})["id"] for name in "abc"]
                page = two.get("volumes", limit=2)["volumes"]
                assert [volume["id"] for volume in page] == made[:0:-1]
                page = two.get("volumes", limit=2, marker=made[1])["volumes"]
                assert [volume["id"] for volume in page] == made[:1]
                found = two.get("volumes", metadata="{'n': 'b'}", with_count="true")
                assert [volume["id"] for volume in found["volumes"]] == [made[1]]
                assert found["count"] == 1
                assert two.get("volumes", **{"name~": "c"})["volumes"][0]["id"] == made[2]
                assert two.get("limits")["limits"]["absolute"]["totalGigabytesUsed"] == 3
                attachment_id = one.attachment(made[0])["id"]
                body = {"attachment": {"volume_uuid": made[0], "connector": connector("b")}}
                answer = two.ask("POST", "attachments", body)
                assert attachment_id in refused(answer, 409, "conflictingRequest")
                two.post(f"attachments/{attachment_id}/action", {"os-complete": None})
                assert one.status(made[0]) == "in-use"
                # The secret of one's grant is opened by the other's key.
                again = {"attachment": {"connector": connector()}}
                info = two.put(f"attachments/{attachment_id}", again)["attachment"]
                assert len(info["connection_info"]["auth_password"]) >= 12
                two.delete(f"attachments/{attachment_id}")
                assert one.status(made[0]) == "available"
                long = {"volume": {"size": 1, "availability_zone": "z" * 300}}
                refused(one.ask("POST", "volumes", long), 400, "badRequest")
        finally:
            other.stop()
