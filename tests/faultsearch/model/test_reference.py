"""The reference model: the expected view of each user."""

from __future__ import annotations

from imsim.core.model import Message, Scene
from imsim.faultsearch.model.reference import ReferenceModel
from imsim.faultsearch.model.rules import Relations

GROUP = "group:club"


def model_of(*entries: tuple[str, str, dict]) -> ReferenceModel:
    """Return the model of a group that alice creates with bob. The entries, all by alice: (type, content, file)."""
    model = ReferenceModel()
    model.founded(GROUP, ())
    for seq, (kind, content, file) in enumerate([change("create", "bob"), *entries], start=1):
        key = f"m{seq}"
        message = Message(GROUP, seq, f"{GROUP}:{seq}", key, Scene.GROUP, kind, "alice", "club", seq, content, file)
        outcome = model.appended(message, 0, Relations(frozenset(), frozenset()))
        assert not outcome.reasons
    return model


def change(event: str, *targets: str, **data: object) -> tuple[str, str, dict]:
    return "notification", "", {"event": event, "operator": "alice", "targets": list(targets), "data": data}


def seen(model: ReferenceModel, age: int) -> list[tuple[int, str]]:
    return [(message.seq, message.content) for message in model.view("bob", GROUP, age)]


def test_member_who_returns_sees_earlier_messages_in_their_present_form():
    model = model_of(
        ("text", "before", None),
        change("kick", "bob"),
        change("edit", seq=2, content="after"),
        ("text", "behind his back", None),
        change("invite", "bob"),
        ("text", "again", None),
    )
    assert seen(model, 2) == [(1, ""), (2, "before")]
    assert seen(model, 5) == [(1, ""), (2, "before"), (3, "")]
    assert seen(model, 7) == [(1, ""), (2, "after"), (3, ""), (4, ""), (6, ""), (7, "again")]
    assert model.view("bob", GROUP) == model.view("bob", GROUP, 7)
