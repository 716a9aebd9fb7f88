"""The bench works: it measures everything, and says so in its file. How fast is not asked."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from lab.bench.__main__ import main
from lab.bench.attachd import rows as attachd_rows
from lab.bench.rows import LIMITS, Row, table, write

ROOT = Path(__file__).resolve().parents[2]
# A clean machine has no cinder, and a quick run does not install it.
OPTIONAL = {"attach / cinder-rtstool", "cinder-rtstool: attach"}
MEASURES = {
    "attach p99",
    "bare attach p50",
    "detach p50 / at first",
    "rtslib: attach",
    "targetcli: attach",
    "reconcile",
    "bare reconcile",
    "targetctl restore",
    "64 clients: attaches",
    "64 clients: attach p99",
    "thick volume: create / bare",
    "thin volume: delete / bare",
    "thin volume: processes per create",
}


def run_quickly(measured: str, results: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "lab.bench", "--quick"),
            *("--only", measured, "--results", str(results)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.mark.lab
def test_a_quick_run_has_every_row(tmp_path: Path) -> None:
    done = run_quickly("daemon", tmp_path)
    output = tmp_path / "daemon.json"
    assert output.exists(), done.stderr
    rows = json.loads(output.read_text())["rows"]
    for row in rows:
        assert set(row) == {"measure", "exports", "value", "unit", "limit"}
        assert row["exports"] in (0, 100)
        assert isinstance(row["unit"], str)
        assert math.isfinite(row["value"])
        assert row["value"] >= 0
    found = {row["measure"] for row in rows}
    assert found | OPTIONAL >= MEASURES | set(LIMITS)
    # One value for each, or a ratio would be of who knows which.
    assert len({(row["measure"], row["exports"]) for row in rows}) == len(rows)
    exceeded = [row for row in rows if row["limit"] is not None and row["value"] > row["limit"]]
    assert done.returncode == (1 if exceeded else 0), done.stderr
    assert all(measure in done.stdout for measure in found)
    counted = {row["measure"]: row["value"] for row in rows}
    assert counted["64 clients: errors"] == 0
    assert counted["processes started per attach"] == 0


@pytest.mark.lab
def test_a_quick_run_of_attachd_has_every_row(tmp_path: Path) -> None:
    done = run_quickly("attachd", tmp_path)
    output = tmp_path / "attachd.json"
    assert output.exists(), done.stderr
    rows = json.loads(output.read_text())["rows"]
    for row in rows:
        assert set(row) == {"measure", "per", "count", "value", "unit", "limit"}
        assert row["count"] in {"clients": (1, 32), "volumes": (100, 1000)}[row["per"]]
        assert math.isfinite(row["value"])
        assert row["value"] >= 0
    found = {row["measure"] for row in rows}
    # Cinder and PostgreSQL are not on every machine.
    missing = set(attachd_rows.LIMITS) - found
    assert all("cinder" in measure or "PostgreSQL" in measure for measure in missing), missing
    assert found >= {"storage host: create p50", "attachd: delete p99", "SQLite: start"}
    assert len({(row["measure"], row["count"]) for row in rows}) == len(rows)
    exceeded = [row for row in rows if row["limit"] is not None and row["value"] > row["limit"]]
    assert done.returncode == (1 if exceeded else 0), done.stderr
    assert all(measure in done.stdout for measure in found)
    for row in rows:
        if row["measure"].endswith((" statements", "attachd: create errors", "delete errors")):
            assert row["limit"] is None or row["value"] <= row["limit"], row


def test_limits_and_what_exceeds_them(tmp_path: Path) -> None:
    free = Row("attach p50", 100, 7.0, "ms")
    over = Row("attach p50 / bare p50", 100, 2.1, "ratio")
    below = Row("attach / cinder-rtstool", 100, 0.5, "ratio")
    assert [row.limit for row in (free, over, below)] == [None, 2.0, None]
    assert [row.exceeded for row in (free, over, below)] == [False, True, False]
    assert Row("attach / cinder-rtstool", 1000, 0.02, "ratio").exceeded
    assert "!2.1" in table([free, over, below])
    write([over], tmp_path / "new" / "rows.json")
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == {
        "rows": [
            {
                "measure": "attach p50 / bare p50",
                "exports": 100,
                "value": 2.1,
                "unit": "ratio",
                "limit": 2.0,
            }
        ]
    }


@pytest.mark.parametrize("counts", ["", "a", "-1", "5000"])
def test_wrong_counts(counts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", f"--counts={counts}"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
