"""The frames of a session: its placeholders, and the counter of its requests."""

from __future__ import annotations

from imsim.load.adapters.described.templates import Template


class Frames:
    """It writes the frames of a session.

    names: the placeholders that have one value in the session, and their values.
    n: the number of the last request.
    """

    __slots__ = ("n", "names")

    def __init__(self, names: dict[str, object]) -> None:
        self.names = names
        self.n = 0

    def render(self, template: Template, values: dict[str, object], now: float) -> bytes:
        """Return a frame with these values. A template with `{n}` gets the next number, which is then `self.n`."""
        if "n" in template.names:
            self.n += 1
        return template.render(self.names | values | {"n": self.n, "time": int(now * 1000)})
