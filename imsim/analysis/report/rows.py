"""Numbers for a report from the columns of a run: why messages did not arrive, and latencies by the size of groups.

All of it is arithmetic on columns. A run of millions of rows becomes no Python object for each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imsim.analysis.latency import Waits, percentile
from imsim.core.model import Scene
from imsim.results import DeliveryOutcome, Outcome, Role, RunData, Words

#: The smallest number of receiving devices of each class of groups.
_SIZES = (1, 5, 10, 20, 50, 100, 200, 500, 1000)

_MEANINGS = {
    Outcome.REJECTED: "refused by the server",
    Outcome.UNKNOWN: "sent; no answer says whether it is stored",
    Outcome.UNSENT: "never sent",
}
_OF_DELIVERIES = {
    DeliveryOutcome.ABSENT: "the device, or the sender's, was offline or withdrawn at the end: nobody waits",
    DeliveryOutcome.RECALLED: "recalled by its sender before the device showed it",
    DeliveryOutcome.SHED: "left out on purpose under load (chatrooms only)",
}
_LOST = {
    Outcome.STORED: "the server has the message, the device never showed it",
    Outcome.UNKNOWN: "the server never confirmed the message",
    Outcome.UNSENT: "the message was never sent",
}


@dataclass(frozen=True)
class Loss:
    """Messages, or deliveries, that did not arrive for one reason.

    what: "messages" or "deliveries". outcome: as in the rows. reason: a text. count: how many, of `total` rows.
    """

    what: str
    outcome: str
    reason: str
    count: int
    total: int


def losses(run: RunData) -> list[Loss]:
    """Return why messages, and then deliveries, did not arrive, the most frequent reasons first."""
    outcome, error = run.words("messages", "outcome"), run.words("messages", "error")
    total = len(outcome)
    found = []
    for (name, code), count in _pairs(outcome, outcome.index, error, error.index):
        if name in _MEANINGS:
            reason = _MEANINGS[Outcome(name)] + (f" ({code})" if code else "")
            found.append(Loss("messages", name, reason, count, total))
    delivery = run.words("deliveries", "outcome")
    total = len(delivery)
    lost = np.flatnonzero(delivery.equal(DeliveryOutcome.LOST))
    at = message_of(run, run.integers("deliveries", "intent")[lost])
    for (name, code), count in _pairs(outcome, outcome.index[at], error, error.index[at]):
        reason = _LOST.get(Outcome(name), name) + (f" ({code})" if code else "")
        found.append(Loss("deliveries", DeliveryOutcome.LOST, reason, count, total))
    for name, reason in _OF_DELIVERIES.items():
        if count := delivery.count(name):
            found.append(Loss("deliveries", name, reason, count, total))
    return sorted(found, key=lambda loss: (loss.what == "deliveries", -loss.count))


def _pairs(
    words: Words, index: NDArray[np.signedinteger], others: Words, other_index: NDArray[np.signedinteger]
) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield each pair of texts with its number of rows; the second text is empty for null."""
    width = len(others.texts) + 1
    keys, counts = np.unique(index.astype(np.int64) * width + other_index + 1, return_counts=True)
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        first, second = divmod(key, width)
        yield (words.texts[first], others.texts[second - 1] if second else ""), count


@dataclass(frozen=True)
class OfSize:
    """The messages of one class of sizes, after the warm-up; latencies in ms, None if null.

    order: where the class stands in a table. lost: the deliveries that never arrived. last_p99: until the last
    recipient has the message.
    """

    order: int
    name: str
    messages: int
    deliveries: int
    lost: int
    p50: float | None
    p99: float | None
    last_p99: float | None


def by_size(run: RunData) -> list[OfSize]:
    """Return latencies by the number of receiving devices of a message. There are none if all messages are p2p."""
    scenes = run.words("messages", "scene")
    if scenes.equal(Scene.P2P).all():
        return []
    is_recipient = run.words("deliveries", "role").equal(Role.RECIPIENT)
    receivers = message_of(run, run.integers("deliveries", "intent")[is_recipient])
    sizes = np.bincount(receivers, minlength=len(scenes))
    size_class = np.searchsorted(_SIZES, sizes, side="right")  # 0: no recipient
    size_class[scenes.equal(Scene.P2P)] = 1
    known = [str(scene) for scene in Scene]
    rank = np.array([*(known.index(text) for text in scenes.texts), 0])
    keys = rank[scenes.index] * (len(_SIZES) + 1) + size_class  # of each message
    waits, last = Waits.of(run), Waits.last(run)
    ms_of, last_of = (_split(keys[message_of(run, one.intent)], one.ms) for one in (waits, last))
    messages = np.bincount(keys[np.unique(message_of(run, waits.intent))], minlength=int(keys.max(initial=0)) + 1)
    found = []
    for key, ms in sorted(ms_of.items()):
        scene, number = known[key // (len(_SIZES) + 1)], key % (len(_SIZES) + 1)
        name = scene if scene == Scene.P2P else f"{scene}, {_range(number)} devices"
        lost = int(np.isinf(ms).sum())
        p50, p99 = percentile(ms, 50), percentile(ms, 99)
        last_p99 = percentile(last_of[key], 99) if key in last_of else None
        found.append(OfSize(key, name, int(messages[key]), len(ms), lost, p50, p99, last_p99))
    return found


def message_of(run: RunData, intent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position in `messages` of each of these messages."""
    intents = run.integers("messages", "intent")
    return intent if np.array_equal(intents, np.arange(len(intents))) else np.searchsorted(intents, intent)


def _split(keys: NDArray[np.int64], ms: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    """Return the latencies of each key, ascending."""
    order = np.lexsort((ms, keys))
    found, starts = np.unique(keys[order], return_index=True)
    return dict(zip(found.tolist(), np.split(ms[order], starts[1:]), strict=False))


def _range(number: int) -> str:
    low = _SIZES[number - 1]
    return f"{low:,} or more" if number == len(_SIZES) else f"{low:,} to {_SIZES[number] - 1:,}"
