"""Paths: the values that they take, and the errors of wrong ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.load.adapters.described.paths import MISSING, PathError, begins_at_frame, getter, items_getter, parsed

DOCUMENT = {
    "a": {"b": {"c": {"d": 4}}, "list": [1, {"x": "y"}]},
    "0": "zero",
    "dotted.key": {"$json": 5},
    "text": "ns:1 hello world",
    "packed": json.dumps({"inner": json.dumps([7])}),
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", DOCUMENT),
        ("text", "ns:1 hello world"),
        ("a.list", [1, {"x": "y"}]),
        ("a.b.c", {"d": 4}),
        ("a.b.c.d", 4),
        ("a.list.1.x", "y"),
        ('"0"', "zero"),
        ('"dotted.key"."$json"', 5),
        ("text.$id", "ns:1"),
        ("text.$rest", "hello world"),
        ("packed.$json.inner.$json.0", 7),
        ("$frame.a.list.0", 1),
    ],
)
def test_path_takes_value(path, value):
    assert getter(path)(DOCUMENT) == value


@pytest.mark.parametrize(
    "path", ["b", "a.x", "a.list.9", "a.list.x", "text.x", "a.b.c.d.e", "a.list.$id", "text.$json"]
)
def test_missing_value_raises_missing(path):
    with pytest.raises(MISSING):
        getter(path)(DOCUMENT)


@given(st.text(min_size=1), st.integers())
def test_quoted_key_can_be_any_text(key, value):
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')
    assert getter(f'x."{quoted}"')({"x": {key: value}}) == value


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("", "expected a path such as 'message.id', got ''"),
        ("a..b", "expected a path such as 'message.id', got 'a..b'"),
        ("a.", "expected a path"),
        ('"a"b', "expected a dot in the path '\"a\"b' at character 4"),
        ("a.*.b", r"'a.*.b': * is allowed only in 'each'"),
        ("a.$x", "'a.$x': unknown step '$x'; there are $json, $id, $rest and $frame"),
        ("a.$id.b", "'a.$id.b': $id must be the last step"),
        ("a.$rest.b", "'a.$rest.b': $rest must be the last step"),
        ("a.$frame", "'a.$frame': $frame must be the first step"),
    ],
)
def test_wrong_path_is_an_error(path, error):
    with pytest.raises(PathError) as found:
        parsed(path)
    assert error in str(found.value)


@pytest.mark.parametrize(
    ("path", "document", "items"),
    [
        ("a", {"a": [1, 2]}, [1, 2]),
        ("$", [1, 2], [1, 2]),
        ("a.*.b", {"a": [{"b": [1]}, {"b": [2, 3]}]}, [1, 2, 3]),
        ("a.$json", {"a": "[1]"}, [1]),
        ("a", {"a": "text"}, []),
        ("*", [[1], [2]], [1, 2]),
    ],
)
def test_items_are_elements_of_list(path, document, items):
    assert list(items_getter(path)(document)) == items


def test_frame_step_is_recognized():
    assert begins_at_frame("$frame.a")
    assert not begins_at_frame("frame.a")
    assert not begins_at_frame('"$frame".a')
