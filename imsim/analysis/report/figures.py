"""Drawings as SVG elements inside the page: text stays text, and colours follow the page's light or dark mode."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from imsim.analysis.plots.style import pair
from imsim.analysis.report.parts import Drawing

WIDTH = 4.8  # inches: a phone shows it at three quarters of its size, where small text is still readable

_MOST_MARKERS = 60

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

#: Colours that would vanish on a dark page, and the variable of the style sheet that stands for each.
_VARIABLES = {
    "#000000": "--ink", "#222222": "--ink", "#555555": "--dim", "#888888": "--dim", "#8c8c8c": "--dim",
    "#999999": "--dim", "#bbbbbb": "--soft", "#cccccc": "--soft", "#cfcfcf": "--soft", "#dddddd": "--grid",
    "#eeeeee": "--grid", "#ffffff": "--card", "#0072b2": "--blue", "#2f4b7c": "--navy", "#b10026": "--red",
    "#a04600": "--brown", "#6a4c93": "--violet",
}  # fmt: skip

_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_LONG = re.compile(r"-?\d+\.\d{2,}")
_FONT = re.compile(r"font-family: *[^;]*;?")
_SPACES = re.compile(r" *\b([MLHVCQSTAZz])\b *| +$")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")

#: Independent of what the user set for notebooks.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "imsim",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9,
    "path.simplify_threshold": 0.5,
}


def svg(drawing: Drawing, number: int) -> Markup:
    """Return the SVG element of a drawing. number: of the figure on the page; it makes the identifiers unique."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks: the browser has them
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, drawing.height), layout="constrained")
        if drawing.shape == "single":
            drawing.draw(figure.add_subplot())
        elif drawing.shape == "pair":
            drawing.draw(pair(figure))
        else:
            drawing.draw(tuple(figure.subplots(2, 1, sharey=True)))
        for axes in figure.axes:
            axes.set_title("", loc="left")  # the caption says it
            for line in axes.lines:
                _thin(line)
        picture = BytesIO()
        figure.savefig(picture, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _embedded(picture.getvalue(), number, drawing.caption)


def _thin(line: Line2D) -> None:
    """Leave out the markers of a long line, each of which would be an element, except for points between two gaps."""
    known = np.isfinite(np.asarray(line.get_ydata(), float))
    if len(known) > _MOST_MARKERS and line.get_linestyle() != "None":
        beside = np.concatenate([[False], known, [False]])
        line.set_markevery(np.flatnonzero(known & ~beside[:-2] & ~beside[2:]).tolist())


def _embedded(picture: bytes, number: int, caption: str) -> Markup:
    root = ElementTree.fromstring(picture)
    used = set()
    for element in root.iter():
        used |= {reference for value in element.attrib.values() for reference in _REFERENCE.findall(value)}
        used |= {element.attrib[f"{{{_XLINK}}}href"][1:]} if f"{{{_XLINK}}}href" in element.attrib else set()
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if element.tag != "text":
            element.tail = None
        if not element.tag.startswith("t"):  # text, tspan
            element.text = None
        _clean(element.attrib, used, number)
    size = root.attrib["viewBox"].split()
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": caption}
    root.attrib |= {"width": f"{float(size[2]):.0f}pt", "height": f"{float(size[3]):.0f}pt"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _clean(attributes: dict[str, str], used: set[str], number: int) -> None:
    """Shorten the attributes of an element, and give its identifier and references the number of the figure."""
    if (name := attributes.pop("id", None)) in used:
        attributes["id"] = f"f{number}-{name}"
    if target := attributes.pop(f"{{{_XLINK}}}href", None):
        attributes["href"] = f"#f{number}-{target[1:]}"
    for key, value in attributes.items():
        value = _REFERENCE.sub(rf"url(#f{number}-\1)", value)
        if key == "style":
            value = _COLOUR.sub(lambda found: _coloured(found[0]), value).replace("; ", ";").replace(": ", ":")
            value = _FONT.sub("", value).replace("'DejaVu Sans'", "var(--font)")
        if key == "d":
            value = _SPACES.sub(r"\1", value.replace("\n", " "))
        if key in ("x", "y") or (key == "d" and len(value) > 150):
            value = _LONG.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value)
        attributes[key] = value


def _coloured(colour: str) -> str:
    return f"var({_VARIABLES[colour]})" if colour in _VARIABLES else colour
