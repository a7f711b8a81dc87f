"""Checks as JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree

from imsim.experiments.check.outputs.junit import to_junit
from imsim.experiments.check.result import CheckResult, Finding

VERDICTS = ("held", "breached", "undecided", "invalid")
FOUND = CheckResult(
    "imsim.toml",
    [Finding(f"{verdict} \x00<&", "lost", "<= 0", verdict, 1.0, evidence="one run") for verdict in VERDICTS],
)


def test_each_budget_is_a_test_case():
    suite = ElementTree.fromstring(to_junit(FOUND))
    assert suite.attrib | {"name": ""} == {"name": "", "tests": "4", "failures": "2", "errors": "1", "skipped": "0"}
    kinds = [[one.tag for one in case if one.tag in ("failure", "error", "skipped")] for case in suite]
    assert kinds == [[], ["failure"], ["failure"], ["error"]]
    values = {one.get("name"): one.get("value") for one in suite[1].find("properties")}
    assert values["imsim.verdict"] == "breached"
    assert values["imsim.value"] == "1.0"


def test_undecided_budget_can_be_skipped():
    suite = ElementTree.fromstring(to_junit(FOUND, undecided_passes=True))
    assert suite[2].find("skipped") is not None
    assert suite.get("skipped") == "1"
