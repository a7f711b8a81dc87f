"""The groups that tasks open, as the coordinator of a run sees them: who opens them, and who is in them."""

from __future__ import annotations

from collections.abc import Callable


class Openings:
    """The groups of tasks. Each player lets its devices in, and the player that has opened the group learns the result.

    present: returns the players that take part. send: sends a message to a player: `send(index, kind, **values)`.
    """

    def __init__(self, present: Callable[[], set[int]], send: Callable[..., None]) -> None:
        self._present = present
        self._send = send
        self._names: set[str] = set()
        self._awaited: dict[str, tuple[int, set[int]]] = {}  # of each: its player, those that must still let devices in
        self._errors: dict[str, str] = {}

    def opened(self, index: int, name: str, members: list[int], creator: int) -> None:
        """Let the players know of a group that a device of player number `index` has created."""
        if name in self._names:  # two players at the same time, and a server that does not mind
            self._send(index, "ready", name=name, error=f"there is already a group {name}")
            return
        self._names.add(name)
        self._awaited[name] = index, set(self._present())
        for player in sorted(self._present()):
            self._send(player, "opened", name=name, members=members, creator=creator)

    def entered(self, index: int, name: str, error: str | None) -> None:
        """Note that a player's devices are in a group. error: why one of them is not."""
        self._awaited[name][1].discard(index)
        if error is not None:
            self._errors[name] = error
        self.report()

    def report(self) -> None:
        """Report the groups whose members are all in them to the players that opened them."""
        for name, (creator, awaited) in list(self._awaited.items()):
            if not awaited & self._present():
                del self._awaited[name]
                self._send(creator, "ready", name=name, error=self._errors.pop(name, None))
