"""The id of a message inside its text, for servers that carry no field of ours."""

from __future__ import annotations

_END = " "  # ids have no space


def with_id(id: str, text: str) -> str:
    """Return the text with the id in front.

    A text of one repeated letter, as the messages of a plan have, becomes shorter for the id, so its size remains the
    planned one. Any other text remains whole.
    """
    is_filler = text == text[:1] * len(text)
    return f"{id}{_END}{text[len(id) + 1 :] if is_filler else text}"


def id_in(text: str) -> str:
    """Return the id in front of the text. Any other text gives a word that is not an id of the run."""
    return text.partition(_END)[0]


def without_id(text: str) -> str:
    """Return the text behind the id."""
    return text.partition(_END)[2]
