"""The alerts are well formed, and each has a unit test and a section of the runbook."""

from __future__ import annotations

import re
import subprocess
from typing import Any, Final

import pytest
import yaml

from tests.observability.prometheus import ROOT, RULE_TESTS, RULES, program
from tools import reference

ALERTS: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
NAMES: Final = [str(rule["alert"]) for rule in ALERTS]


def promtool(*words: str) -> None:
    done = subprocess.run(
        [program("promtool"), *words], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", RULES.name)


def test_alerts_pass_their_unit_tests() -> None:
    promtool("test", "rules", RULE_TESTS.name)


def test_every_alert_fires_in_a_unit_test() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    fire = {
        one["name"]
        for one in tests
        if any(f'"{one["name"]}"' in case["expr"] and case["exp_samples"] for case in one["promql_expr_test"])
    }
    assert fire == set(NAMES)


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_runbook_explains_every_alert(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (page, anchor) == ("docs/runbook.md", name.lower())
    sections = re.split(r"^### ", (ROOT / page).read_text(), flags=re.MULTILINE)
    [section] = [one for one in sections if one.splitlines()[0] == name]
    for part in ("**Means.** ", "**Look.** ", "**Do.** "):
        _, found, said = section.partition(part)
        assert found, f"{name} lacks {part}"
        assert len(said.partition("\n\n")[0].split()) >= 4
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]


def test_runbook_has_no_extra_section_and_no_dead_link() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert sorted(re.findall(r"^### (\w+)$", text, flags=re.MULTILINE)) == sorted(NAMES)
    assert set(re.findall(r"\]\(#(\w+)\)", text)) <= {name.lower() for name in NAMES}
    for target in re.findall(r"\]\(([^#)]+)(?:#[^)]*)?\)", text):
        assert (ROOT / "docs" / target).exists(), target


def test_alerts_use_existing_metrics_only() -> None:
    listed = set(re.findall(r"`(freshdb_\w+)`", reference.metrics()))
    for rule in ALERTS:
        for name in re.findall(r"freshdb_\w+", rule["expr"]):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in listed, (rule["alert"], name)
