"""What each user should see, as the search's ledger works it out."""

from __future__ import annotations

from imsim.core.model import Message, Scene
from imsim.faultsearch.model.reference import Ledger
from imsim.faultsearch.model.rules import Relations

GROUP = "group:club"


def ledger_of(*entries: tuple[str, str, dict]) -> Ledger:
    """Of a group that alice founds with bob: (type, content, file), all of them alice's."""
    ledger = Ledger()
    ledger.founded(GROUP, ())
    for seq, (kind, content, file) in enumerate([change("create", "bob"), *entries], start=1):
        key = f"m{seq}"
        message = Message(GROUP, seq, f"{GROUP}:{seq}", key, Scene.GROUP, kind, "alice", "club", seq, content, file)
        outcome = ledger.appended(message, 0, Relations(frozenset(), frozenset()))
        assert not outcome.reasons
    return ledger


def change(event: str, *targets: str, **data: object) -> tuple[str, str, dict]:
    return "notification", "", {"event": event, "operator": "alice", "targets": list(targets), "data": data}


def seen(ledger: Ledger, age: int) -> list[tuple[int, str]]:
    return [(message.seq, message.content) for message in ledger.view("bob", GROUP, age)]


def test_who_was_away_sees_what_was_then_to_be_seen():
    ledger = ledger_of(
        ("text", "before", None),
        change("kick", "bob"),
        change("edit", seq=2, content="after"),
        ("text", "behind his back", None),
        change("invite", "bob"),
        ("text", "again", None),
    )
    assert seen(ledger, 2) == [(1, ""), (2, "before")]
    assert seen(ledger, 5) == [(1, ""), (2, "before"), (3, "")]
    assert seen(ledger, 7) == [(1, ""), (2, "after"), (3, ""), (4, ""), (6, ""), (7, "again")]
    assert ledger.view("bob", GROUP) == ledger.view("bob", GROUP, 7)
