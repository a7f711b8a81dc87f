"""The id of a message inside its text, for servers that carry no field of ours."""

from __future__ import annotations

_END = " "  # ids have no space


def with_id(id: str, text: str) -> str:
    """Return the text with the id in front. The result is as long as `text` if that is long enough for the id."""
    return f"{id}{_END}{text[len(id) + 1 :]}"


def id_in(text: str) -> str:
    """Return the id in front of the text. Any other text gives a word that is not an id of the run."""
    return text.partition(_END)[0]
