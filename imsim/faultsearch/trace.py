"""What happened in a run, in the order in which it happened: the evidence of every check, and text on demand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from imsim.core.model import Message, Session


class Entry(NamedTuple):
    """`at`: seconds of the world's own time. `what`: "<-" (`node` received `thing` from `peer`), "->" (sent it to),
    "event" (a client told its application), "asked" / "stored" (storage), or a word for what was done to the node."""

    at: float
    node: str
    what: str
    peer: str
    thing: Any

    def __str__(self) -> str:
        thing = self.thing if type(self.thing) is str else describe(self.thing)
        return f"{self.at:12.6f} {self.node:<10} {self.what:<6} {self.peer:<10} {thing}".rstrip()


def digest(entries: Iterable[Entry]) -> str:
    """The trace as one short word: equal exactly if the traces are, down to the last letter of each message."""
    sha = hashlib.sha256()
    told: dict[int, str] = {}  # what the trace holds stays where it is, and most of it stands there several times
    for at, node, what, peer, thing in entries:
        words = told.get(id(thing))
        if words is None:
            words = told[id(thing)] = _whole(thing, told)
        sha.update(f"{at!r} {node} {what} {peer} {words}\n".encode())
    return sha.hexdigest()[:16]


_names: dict[type, tuple[str, ...]] = {}


def _names_of(kind: type) -> tuple[str, ...]:
    """Of the fields of a dataclass; none of anything else."""
    names = _names.get(kind)
    if names is None:
        names = _names[kind] = tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()
    return names


_PLAIN = frozenset({type(None), int, bool, float, str})


def _whole(thing: Any, told: dict[int, str]) -> str:
    """All that there is in it. `told`: the same of what was there before, by identity."""
    kind = type(thing)
    if kind in _PLAIN:
        return repr(thing)
    if kind in (list, tuple):
        return f"({_all_of(thing, told)})"
    if kind in (frozenset, set):  # in an order of their own in each process
        return f"{{{', '.join(sorted([_whole(part, told) for part in thing]))}}}"
    if kind is dict:
        return f"{{{', '.join([f'{_whole(key, told)}: {_whole(value, told)}' for key, value in thing.items()])}}}"
    words = told.get(id(thing))
    if words is None:
        if not is_dataclass(kind):
            return str(thing)
        values = [getattr(thing, name) for name in _names_of(kind)]
        words = told[id(thing)] = f"{kind.__name__}({_all_of(values, told)})"
    return words


def _all_of(parts: Iterable[Any], told: dict[int, str]) -> str:
    return ", ".join([repr(part) if type(part) in _PLAIN else _whole(part, told) for part in parts])


_SHORT = 24


def describe(thing: Any) -> str:
    """A frame, an event, a request as one line for people: its name and what is not empty in it, long words cut."""
    kind = type(thing)
    if kind is str:
        return thing if len(thing) <= _SHORT else f"{thing[:_SHORT]}...({len(thing)})"
    if thing is None or kind in (int, bool, float):
        return str(thing)
    if kind is Message:
        return _message(thing)
    if kind is Session:
        return f"{thing.user}/{thing.device}@{thing.epoch}:{thing.gateway}:{thing.connection}"
    if kind in (list, tuple):
        return f"({', '.join([describe(part) for part in thing])})"
    if kind is frozenset:  # of names, in an order of their own in each process
        return f"{{{', '.join(sorted(thing))}}}"
    if kind is dict:
        return f"{{{', '.join([f'{key}: {describe(value)}' for key, value in thing.items()])}}}"
    if not is_dataclass(kind):
        return str(thing)
    parts = [
        f"{name}={value if name in _UNCUT else describe(value)}"
        for name in _names_of(kind)
        if (value := getattr(thing, name)) is not None and value != "" and value is not False
    ]
    return f"{kind.__name__}({', '.join(parts)})"


_UNCUT = ("conversation_id", "id", "id_client", "ref")  # names, by which a message is found again


def _message(message: Message) -> str:
    """Where it stands, under which idClient, and what it says by now."""
    words = [f"{message.conversation_id}#{message.seq}[{message.id_client}]"]
    if message.content:
        words.append(repr(describe(message.content)))
    if message.file is not None:
        words.append(describe(message.file))
    if message.custom is not None:
        words.append(f"custom {describe(message.custom)!r}")
    if message.recalled:
        words.append("recalled")
    if message.amended:
        words.append(f"amended by #{message.amended}")
    return " ".join(words)


# --- the part of it that is about something --------------------------------------------------------------------------

_WORD = re.compile(r"\w[\w/:.#+-]*\w")
_BEFORE, _AFTER = r"(?<![\w/:.#+-])", r"(?![\w/+-]|[:.#]\w)"  # where a word begins and ends
_CONVERSATION = re.compile(r"(?:p2p|group|system|chatroom):.+")
_PLACE = re.compile(r"((?:p2p|group|system|chatroom):.+)[#:](\d+)")  # of a message
_STANDS = re.compile(r"([\w:]+#[1-9]\d*)\[([^]]+)\]")  # as `describe` tells a message
_SENT = re.compile(r"id_client=([^,)]+)")


def about(trace: Sequence[Entry], text: str) -> list[Entry]:
    """The entries that concern what the text is about, and what befell the whole world from the first of them on.

    That are the messages that it names, by place or idClient; or else the first instance, node or user and the first
    conversation that it names, both of them if there is something about both; or else everything.
    """
    lines = [str(entry) for entry in trace]
    for subject in _subjects({entry.node for entry in trace}, lines, text):
        wanted = [re.compile(f"{_BEFORE}(?:{'|'.join(map(_pattern, sorted(one_of)))}){_AFTER}") for one_of in subject]
        found = [all(one_of.search(line) for one_of in wanted) for line in lines]
        if any(found):
            first = found.index(True)
            rest = zip(trace[first:], found[first:], strict=True)
            return [entry for entry, is_so in rest if is_so or _is_done_to_all(entry)]
    return list(trace)


def _subjects(nodes: set[str], lines: Sequence[str], text: str) -> Iterator[list[set[str]]]:
    """What the text may be about, the likeliest first: an entry is so if it has one word of each set."""
    named = _WORD.findall(text)
    stands: dict[str, set[str]] = {}  # place <-> idClient
    for line in lines:
        for state, id_client in _STANDS.findall(line):
            if not _PLACE.match(id_client):  # a system message is named after the message that it follows from
                stands.setdefault(state, set()).add(id_client)
                stands.setdefault(id_client, set()).add(state)
        for id_client in _SENT.findall(line):
            stands.setdefault(id_client, set())
    states = [f"{match[1]}#{match[2]}" for word in named if (match := _PLACE.fullmatch(word))]
    if messages := {*states, *(word for word in named if word in stands)}:
        yield [messages.union(*(stands.get(word, ()) for word in messages))]
    conversations = [{word} for word in named if _CONVERSATION.fullmatch(word) and not _PLACE.fullmatch(word)]
    actors = [{word} for word in named if word in nodes and "/" in word]
    actors += [others for word in named if (others := {node for node in nodes if node.split("/")[0] == word})]
    # Of a slot ("bob/phone"), it is the user.
    actors += [{node for node in nodes if node.startswith(f"{word.split('/')[0]}/")} for word in named if "/" in word]
    actors = [actor for actor in actors if actor]
    if actors and conversations:
        yield [actors[0], conversations[0]]
    yield from ([subject] for subject in (*actors[:1], *conversations[:1]))


def _pattern(word: str) -> str:
    """A message's place can be written as its id is; what is said of a message is said of its conversation."""
    if match := _PLACE.fullmatch(word):
        return f"{re.escape(match[1])}[#:]{match[2]}"
    return re.escape(word) + (r"(?:[#:]\d+)?" if _CONVERSATION.fullmatch(word) else "")


def _is_done_to_all(entry: Entry) -> bool:
    """A node that crashed, a fault that befell more than one frame; or the end of all faults."""
    return entry.what in ("crash", "heal") or (entry.what == "fault" and entry.thing is None)
