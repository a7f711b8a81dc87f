"""Functions over a whole trace: its digest, and the entries that a text is about."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from imsim.faultsearch.entries import Entry, details_of, names_of


def digest(entries: Iterable[Entry]) -> str:
    """Return the digest of a trace. Two digests are equal exactly if the traces are, to the last letter of each
    message."""
    sha = hashlib.sha256()
    known: dict[int, str] = {}  # by identity: entries share most of their parts
    for entry in entries:
        kind = type(entry)
        words = [kind.__name__, repr(entry.at), entry.node]
        for name in details_of(kind):
            part = getattr(entry, name)
            words.append(part if type(part) is str else known.get(id(part)) or _whole(part, known))
        sha.update("\0".join(words).encode())
    return sha.hexdigest()[:16]


_PLAIN = frozenset({type(None), int, bool, float, str})


def _whole(value: Any, known: dict[int, str]) -> str:
    """Return the full text of a value. `known`: the texts of earlier values, by identity."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind in (list, tuple):
        return f"({_all_of(value, known)})"
    if kind in (frozenset, set):  # sorted, as the order differs between processes
        return f"{{{', '.join(sorted([_whole(part, known) for part in value]))}}}"
    if kind is dict:
        return f"{{{', '.join([f'{_whole(key, known)}: {_whole(value, known)}' for key, value in value.items()])}}}"
    words = known.get(id(value))
    if words is None:
        if not is_dataclass(kind):
            return str(value)
        values = [getattr(value, name) for name in names_of(kind)]
        words = known[id(value)] = f"{kind.__name__}({_all_of(values, known)})"
    return words


def _all_of(parts: Iterable[Any], known: dict[int, str]) -> str:
    return ", ".join([repr(part) if type(part) in _PLAIN else _whole(part, known) for part in parts])


# --- the entries about a subject -------------------------------------------------------------------------------------

_WORD = re.compile(r"\w[\w/:.#+-]*\w")
_BEFORE, _AFTER = r"(?<![\w/:.#+-])", r"(?![\w/+-]|[:.#]\w)"  # where a word begins and ends
_CONVERSATION = re.compile(r"(?:p2p|group|system|chatroom):.+")
_SEQ = re.compile(r"((?:p2p|group|system|chatroom):.+)[#:](\d+)")  # the seq of a message
_STANDS = re.compile(r"([\w:]+#[1-9]\d*)\[([^]]+)\]")  # the format in which `describe` writes a message
_SENT = re.compile(r"id_client=([^,)]+)")


def about(trace: Sequence[Entry], text: str) -> list[Entry]:
    """Return the entries about the subject of a text, and all global entries since the first of them.

    The subject is the messages that the text names, by seq or idClient. If it names none, it is the first conversation
    and the first instance, node or user that it names: both if some entry concerns both, else either. Without any,
    return all entries.
    """
    lines = [str(entry) for entry in trace]
    for subject in _subjects({entry.node for entry in trace}, lines, text):
        wanted = [re.compile(f"{_BEFORE}(?:{'|'.join(map(_pattern, sorted(one_of)))}){_AFTER}") for one_of in subject]
        found = [all(one_of.search(line) for one_of in wanted) for line in lines]
        if any(found):
            first = found.index(True)
            rest = zip(trace[first:], found[first:], strict=True)
            return [entry for entry, is_so in rest if is_so or entry.is_global]
    return list(trace)


def _subjects(nodes: set[str], lines: Sequence[str], text: str) -> Iterator[list[set[str]]]:
    """Yield the possible subjects of a text, the likeliest first. An entry matches if it has one word of each set."""
    named = _WORD.findall(text)
    stands: dict[str, set[str]] = {}  # seq <-> idClient
    for line in lines:
        for state, id_client in _STANDS.findall(line):
            if not _SEQ.match(id_client):  # the id of a system message is that of the message it follows from
                stands.setdefault(state, set()).add(id_client)
                stands.setdefault(id_client, set()).add(state)
        for id_client in _SENT.findall(line):
            stands.setdefault(id_client, set())
    states = [f"{match[1]}#{match[2]}" for word in named if (match := _SEQ.fullmatch(word))]
    if messages := {*states, *(word for word in named if word in stands)}:
        yield [messages.union(*(stands.get(word, ()) for word in messages))]
    conversations = [{word} for word in named if _CONVERSATION.fullmatch(word) and not _SEQ.fullmatch(word)]
    actors = [{word} for word in named if word in nodes and "/" in word]
    actors += [others for word in named if (others := {node for node in nodes if node.split("/")[0] == word})]
    # The actor of a slot ("bob/phone") is its user.
    actors += [{node for node in nodes if node.startswith(f"{word.split('/')[0]}/")} for word in named if "/" in word]
    actors = [actor for actor in actors if actor]
    if actors and conversations:
        yield [actors[0], conversations[0]]
    yield from ([subject] for subject in (*actors[:1], *conversations[:1]))


def _pattern(word: str) -> str:
    """Return a pattern of a word. A message's seq also matches in its id, and a conversation matches its messages."""
    if match := _SEQ.fullmatch(word):
        return f"{re.escape(match[1])}[#:]{match[2]}"
    return re.escape(word) + (r"(?:[#:]\d+)?" if _CONVERSATION.fullmatch(word) else "")
