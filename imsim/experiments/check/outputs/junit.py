"""A check as JUnit XML, which CI servers show: a test case for each budget."""

from __future__ import annotations

from xml.etree import ElementTree

from imsim.experiments.check.result import CheckResult, Finding

#: The element in a test case for each verdict. A held budget has none.
_ELEMENTS = {"breached": "failure", "invalid": "error", "undecided": "failure"}


def to_junit(found: CheckResult, *, undecided_passes: bool = False) -> str:
    """Return the XML.

    Args:
        found: the result of the check.
        undecided_passes: report undecided budgets as skipped instead of failed.
    """
    elements = dict(_ELEMENTS, undecided="skipped") if undecided_passes else _ELEMENTS
    kinds = [elements.get(finding.verdict, "") for finding in found.findings]
    counts: dict[str, str] = {
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
    }
    suite = ElementTree.Element(
        "testsuite", {"name": f"imsim check {found.source}", "tests": str(len(kinds)), **counts}
    )
    for finding, kind in zip(found.findings, kinds, strict=True):
        case = ElementTree.SubElement(suite, "testcase", classname="imsim.budget", name=_clean(finding.name))
        _properties(case, finding)
        if kind:
            ElementTree.SubElement(case, kind, message=_clean(str(finding)))
        ElementTree.SubElement(case, "system-out").text = _clean(str(finding))
    ElementTree.indent(suite)
    text: str = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _properties(case: ElementTree.Element, finding: Finding) -> None:
    properties = ElementTree.SubElement(case, "properties")
    for name in ("verdict", "metric", "limit", "value", "low", "high", "base", "change", "evidence"):
        value = getattr(finding, name)
        if value is not None and value != "":
            ElementTree.SubElement(properties, "property", name=f"imsim.{name}", value=_clean(str(value)))


def _clean(text: str) -> str:
    """Return a text without the control characters that XML 1.0 cannot contain."""
    return "".join(one for one in text if one in "\t\n\r" or one >= " ")
