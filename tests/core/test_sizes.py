"""Sizes of message bodies and pages."""

from __future__ import annotations

import pytest
from core.builders import message

from imsim.core.sizes import Room, body_bytes


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"content": ""}, 0),
        ({"content": "äb"}, 3),
        ({"content": "", "custom": "ä"}, 2),
        ({"content": "", "file": {"a": "ä"}}, 10),
        ({"content": "1", "custom": "22", "file": {}}, 5),
    ],
)
def test_body_bytes_is_the_sum_of_all_parts(fields, size):
    assert body_bytes(message(**fields)) == size


def test_a_page_takes_what_fits_and_a_first_message_of_any_size():
    room = Room(5)
    assert [room.takes(size) for size in (9, 0, 1)] == [True, True, False]
    other = Room(5)
    assert [other.takes(size) for size in (2, 4, 3, 1)] == [True, False, True, False]
