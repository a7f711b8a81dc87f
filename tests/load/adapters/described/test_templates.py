"""Templates: any value makes valid JSON, and nothing else than a value."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.load.adapters.described.templates import Template, TemplateError, Text, check, compiled

VALUES = st.one_of(st.text(), st.integers(-(2**53), 2**53), st.booleans(), st.none(), st.lists(st.text()))


def written(document: object, **values: object) -> object:
    return json.loads(compiled(document).render(values))


@given(VALUES)
def test_whole_placeholder_keeps_type_of_value(value):
    assert written({"a": "{x}", "b": ["{x}", 1]}, x=value) == {"a": value, "b": [value, 1]}


@given(st.text(), st.text())
def test_text_in_longer_string_cannot_break_json(value, other):
    found = written({"a": "<{x}|{y}>", "{x}": 1}, x=value, y=other)
    assert found == {"a": f"<{value}|{other}>", value: 1} if value != "a" else found


@given(VALUES, st.text())
def test_nested_json_survives_any_value(value, text):
    document = {"data": {"$json": {"x": "{x}", "text": "[{text}]", "inner": {"$json": ["{x}", "{text}"]}}}}
    outer = written(document, x=value, text=text)
    inner = json.loads(outer["data"])
    assert inner["x"] == value
    assert inner["text"] == f"[{text}]"
    assert json.loads(inner["inner"]) == [value, text]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text().filter(lambda text: "{" not in text),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: "{" not in key), inner),
)  # fmt: skip


@given(_JSON.filter(lambda document: "$json" not in json.dumps(document)))
def test_document_without_placeholders_is_written_as_it_is(document):
    assert written(document) == document


@given(st.text(), st.integers())
def test_bound_values_are_written_like_others(text, number):
    document = {"a": "{x}-{y}", "b": {"$json": ["{x}", "{y}"]}, "c": "{y}"}
    values = {"x": text, "y": number}
    bound = compiled(document).bind({"x": text})
    assert bound.names == {"y"}
    assert bound.render({"y": number}) == compiled(document).render(values)
    assert bound.bind({"y": number}).render({}) == compiled(document).render(values)


def test_values_in_longer_string_are_texts():
    assert written(["{a}.{b}.{c}.{d}"], a=7, b=True, c=None, d=["x"]) == ['7.true..["x"]']


def test_double_braces_are_plain_text():
    assert written({"a": "{{x}} {x} {", "b": "{}", "c": "{ x }"}, x=1) == {"a": "{x} 1 {", "b": "{}", "c": "{ x }"}


def test_template_without_placeholders_is_unchanged_by_bind():
    template = compiled({"a": 1})
    assert template.bind({"x": 1}) is template
    assert isinstance(template, Template)


def test_value_that_is_not_json_is_an_error():
    with pytest.raises(TemplateError, match="expected JSON, got nan"):
        compiled({"a": float("nan")})


@given(st.text(min_size=1))
def test_url_quotes_values(value):
    url = Text("{http}/token?user={user}&x=1").fill_url({"http": "http://host:1/path", "user": value})
    parts = urlsplit(url)
    assert url.startswith("http://host:1/path/token?user=")
    assert parse_qsl(parts.query, keep_blank_values=True, encoding="utf-8") == [("user", value), ("x", "1")]


def test_unknown_placeholder_is_named_with_similar_ones():
    with pytest.raises(TemplateError, match=r"unknown placeholder \{txt\} \(did you mean 'text'\?\); known here: id, "):
        check({"txt"}, {"text", "id"})
    check({"frame.a.b"}, {"frame."})
    with pytest.raises(TemplateError, match=r"known here: frame\.PATH, id"):
        check({"x"}, {"frame.", "id"})
