"""Attachments: the required fields of each message type, and errors that name the expected value."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imsim.core.attachments import ATTACHMENTS, EXAMPLES, Anything, Number, Text, Texts, check_attachment
from imsim.core.exceptions import BadAttachment
from imsim.core.model import MessageType

RECORDING = {"url": "https://x/y", "duration": 12.5, "size": 9_000, "format": "mp3"}
GOOD = {
    "image": {"url": "https://x/y.png", "width": 640, "height": 480, "size": 20_000},
    "audio": RECORDING,
    "video": {**RECORDING, "format": "video/mp4"},
    "file": {"url": "https://x/y.pdf", "size": 0, "format": "pdf"},
    "geo": {"title": "", "longitude": -180, "latitude": 47.5},
    "notification": {"event": "renamed", "operator": "alice", "targets": ["bob"], "data": {"name": "team"}},
}
WITHOUT = ["text", "custom"]
FIELDS = [(type, name) for type, file in GOOD.items() for name in file]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def verdict(type, file) -> str:
    """Return the text of the refusal, which is one line, or "" if the attachment is accepted."""
    try:
        check_attachment(type, file)
    except BadAttachment as error:
        text = str(error)
    else:
        return ""
    assert "\n" not in text
    assert 0 < len(text) < 300
    return text


def complaint(type, file) -> str:
    text = verdict(type, file)
    assert text
    return text


def test_table_covers_every_message_type():
    assert set(ATTACHMENTS) == set(MessageType)
    assert {*GOOD, *WITHOUT} == set(map(str, MessageType))


def test_every_type_that_users_send_with_an_attachment_has_a_valid_example():
    assert set(EXAMPLES) == {type for type, fields in ATTACHMENTS.items() if fields} - {MessageType.NOTIFICATION}
    for type, file in EXAMPLES.items():
        assert verdict(type, dict(file)) == ""


@pytest.mark.parametrize("type", GOOD)
def test_a_valid_attachment_passes_unchanged(type):
    file = {**copy.deepcopy(GOOD[type]), "thumbnail": {"any": [1, None]}}
    before = copy.deepcopy(file)
    check_attachment(type, file)
    assert file == before


@pytest.mark.parametrize(("type", "name"), FIELDS)
def test_a_missing_field_is_named_with_all_fields_of_the_type(type, name):
    text = complaint(type, {key: value for key, value in GOOD[type].items() if key != name})
    assert text.startswith(f"file.{name}: missing; ")
    assert all(field in text for field in GOOD[type])


@pytest.mark.parametrize("type", GOOD)
def test_only_a_notification_may_have_no_attachment(type):
    if type == "notification":
        check_attachment(type, None)
    else:
        assert complaint(type, None).startswith("file: missing; ")


@pytest.mark.parametrize("file", [{}, {"url": "x"}])
@pytest.mark.parametrize("type", WITHOUT)
def test_text_and_custom_must_not_have_an_attachment(type, file):
    check_attachment(type, None)
    assert complaint(type, file).startswith(f"file: a message of type {type} must not have an attachment; remove it")


@pytest.mark.parametrize("file", ["https://x/y.png", ["x"], 5, True])
def test_an_attachment_must_be_an_object(file):
    assert complaint("image", file).startswith("file: expected an object, got ")


@pytest.mark.parametrize(
    ("type", "name", "value", "expected"),
    [
        ("image", "width", "x", 'file.width: expected a whole number of pixels from 1 to 2^53-1, got "x"'),
        ("image", "width", 0, "pixels from 1 to 2^53-1, got 0"),
        ("image", "height", 1.0, "a whole number of pixels from 1 to 2^53-1, got 1.0"),
        ("image", "height", True, "got true"),
        ("image", "size", -1, "a whole number of bytes from 0 to 2^53-1, got -1"),
        ("image", "size", 2**53, f"got {2**53}"),
        pytest.param("image", "size", 10**5000, "got a number with more than 20 digits", id="huge"),
        ("image", "url", "", 'text of 1 to 2048 characters, got ""'),
        ("image", "url", "x" * 2049, f'got "{"x" * 40}" and 2009 characters more'),
        ("image", "url", None, "got null"),
        ("audio", "duration", -0.1, "a number of seconds from 0 to 2^53-1, got -0.1"),
        ("audio", "duration", float("nan"), "got nan"),
        ("video", "duration", float("inf"), "got inf"),
        ("video", "duration", False, "got false"),
        ("video", "format", "", "text of 1 to 64 characters"),
        ("file", "size", "12", 'got "12"'),
        ("geo", "longitude", 180.5, "a number of degrees from -180 to 180, got 180.5"),
        ("geo", "latitude", -90.001, "a number of degrees from -90 to 90, got -90.001"),
        ("geo", "latitude", float("-inf"), "got -inf"),
        ("geo", "title", "x" * 257, "text of 0 to 256 characters"),
        ("geo", "title", 7, "got 7"),
        ("notification", "targets", "bob", 'a list, each item a text of 1 to 64 characters, got "bob"'),
        ("notification", "targets", ["bob", 5], "got a list"),
        ("notification", "operator", "", 'text of 1 to 64 characters, got ""'),
        ("notification", "data", [], "an object, got a list"),
        ("notification", "event", {"a": 1}, "got an object"),
        ("notification", "event", "a\nb" * 30, r'got "a\nb'),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(type, name, value, expected):
    text = complaint(type, {**GOOD[type], name: value})
    assert text.startswith(f"file.{name}: expected ")
    assert expected in text


@pytest.mark.parametrize(
    ("type", "name", "value"),
    [
        ("geo", "longitude", 180),
        ("geo", "latitude", -90.0),
        ("audio", "duration", 0),
        ("image", "size", 2**53 - 1),
        ("image", "url", "ü" * 2048),
        ("notification", "targets", []),
        ("notification", "data", {}),
    ],
)
def test_values_at_the_limits_pass(type, name, value):
    check_attachment(type, {**GOOD[type], name: value})


@pytest.mark.parametrize("file", [None, {}, {"url": 5}])
def test_an_unknown_type_may_have_any_attachment(file):
    check_attachment("sticker", file)
    check_attachment("", file)


@given(st.sampled_from([*MessageType, "sticker"]), st.none() | st.dictionaries(st.text(), json_values, max_size=3))
def test_any_attachment_is_accepted_or_refused_with_a_reason(type, file):
    text = verdict(type, file)
    assert not text or text.startswith("file")


@given(st.sampled_from(FIELDS), json_values)
def test_a_random_value_is_accepted_or_named_in_the_error(field, value):
    type, name = field
    text = verdict(type, {**GOOD[type], name: value})
    assert not text or text.startswith(f"file.{name}: expected ")


def fitting(field) -> st.SearchStrategy:
    if isinstance(field, Text):
        return st.text(min_size=field.shortest, max_size=min(field.longest, 80))
    if isinstance(field, Number):
        whole = st.integers(field.least, field.most)
        return whole if field.whole else whole | st.floats(field.least, field.most)
    if isinstance(field, Texts):
        return st.lists(fitting(field.each), max_size=3)
    assert isinstance(field, Anything)
    return st.dictionaries(st.text(), json_values, max_size=3)


@given(st.data(), st.sampled_from([type for type, fields in ATTACHMENTS.items() if fields]))
def test_an_attachment_that_fits_the_table_passes(data, type):
    required = {name: fitting(field) for name, field in ATTACHMENTS[type].items()}
    extra = data.draw(st.dictionaries(st.text(), json_values, max_size=2))
    check_attachment(type, {**extra, **data.draw(st.fixed_dictionaries(required))})
