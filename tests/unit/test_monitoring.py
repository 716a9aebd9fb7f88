"""The dashboard, the alert rules and docs/monitoring.md name what there is, all of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

from targetd import logs, metrics
from tests.hosts import Host, SimulatedBacking

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "systemd" / "monitoring"
RULES, TESTS = MONITORING / "alerts.yaml", Path(__file__).with_name("alerts.yaml")
DASHBOARD = MONITORING / "grafana-dashboard.json"
DOCUMENT = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
PROMTOOL = ROOT / "build" / "promtool"
ALERTS = re.findall(r"^ *- alert: (\w+)$", RULES.read_text(encoding="utf-8"), re.MULTILINE)


def promtool(*arguments: str) -> str:
    assert PROMTOOL.exists(), "make build/promtool fetches it"
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> Iterator[str]:
    """Of every panel, as Grafana sends them."""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")


@pytest.fixture
def families(simulated_backing: SimulatedBacking) -> list[Metric]:
    with metrics.lvm_command("lvs"):
        host = Host(simulated_backing)
    host.attach(host.create())
    host.close()
    return list(simulated_backing.daemon.metrics.collect())


def series_names(family: Metric) -> set[str]:
    ends = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_count", "_sum"),
        "summary": ("_count", "_sum"),
    }
    return {family.name + end for end in ends.get(family.type, ("",))}


def labels(family: Metric) -> str:
    named = getattr(family, "_labelnames", None) or tuple(
        dict.fromkeys(name for sample in family.samples for name in sample.labels)
    )
    return ", ".join(f"`{name}`" for name in named if name != "le")


def shown_name(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def test_the_rules_are_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(RULES))


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", str(TESTS))
    cases = TESTS.read_text(encoding="utf-8")
    for alert in ALERTS:
        assert re.search(rf"{{alertname: {alert}, eval_time: \w+, exp_alerts: \[\]}}", cases), alert
        assert re.search(rf"alertname: {alert}\n +eval_time: .*\n +exp_alerts:\n", cases), alert


def test_the_panels_are_expressions(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    # JSON is YAML.
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


def test_what_is_asked_for_is_there(families: list[Metric]) -> None:
    there = {name for family in families for name in series_names(family)}
    asked = RULES.read_text(encoding="utf-8") + "\n".join(expressions())
    named = set(re.findall(r"\btargetd_\w+", asked))
    assert named - there == set()
    # And nothing is counted that nobody looks at.
    assert {f.name for f in families if not series_names(f) & named} <= {
        "targetd_process_virtual_memory_bytes",
        "targetd_process_start_time_seconds",
        "targetd_process_max_fds",
    }


def test_labels_that_are_asked_for_are_there(families: list[Metric]) -> None:
    by_name = {name: labels(family) for family in families for name in series_names(family)}
    asked = RULES.read_text(encoding="utf-8") + "\n".join(expressions())
    for name, selector in re.findall(r"\b(targetd_\w+)\{([^}]*)\}", asked):
        for label in re.findall(r"(\w+)\s*[=!]", selector):
            assert label in ("instance", "job") or f"`{label}`" in by_name[name], (name, label)


def test_the_document_lists_every_metric(families: list[Metric]) -> None:
    rows = [
        f"| `{shown_name(family)}` | {labels(family)} | {family.documentation} |"
        for family in sorted(families, key=shown_name)
    ]
    found = re.findall(r"^\| `targetd_.*$", DOCUMENT, re.MULTILINE)
    assert found == rows, "docs/monitoring.md needs these rows:\n" + "\n".join(rows)


def test_the_document_says_what_to_do_about_every_alert() -> None:
    assert re.findall(r"^### (Targetd\w+)$", DOCUMENT, re.MULTILINE) == ALERTS


def test_the_document_lists_every_field_of_the_journal() -> None:
    assert set(logs.FIELDS.values()) == set(
        re.findall(r"^\| `([A-Z_]+)=` ", DOCUMENT, re.MULTILINE)
    )
