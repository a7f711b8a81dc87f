"""The rows of a run: `assemble` joins its facts with its plan, `digest` identifies equal rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imsim.core.model import Code
from imsim.results.columns import column, integers, texts
from imsim.results.recorder import CODES, ROUTES, Facts, Kind
from imsim.results.schema import DELIVERIES, MESSAGES, DeliveryOutcome, Outcome, Role

if TYPE_CHECKING:
    from imsim.scenario import Plan

_NEVER = np.iinfo(np.int64).max  # later than any time, so it is the minimum of no times
_OF_DEVICES = (Kind.DISCONNECTED, Kind.ENTERED)  # facts without a message
_OF_DELIVERIES = (Kind.PUSHED, Kind.DELIVERED, Kind.DUPLICATE, Kind.READ, Kind.SHED, Kind.LEFT_OUT)
_NO_PROOFS = (Kind.SENT, Kind.RECEIVED, Kind.FAILED)  # facts that do not prove that the message is stored
_PAIR = ["intent", "device"]
_UNANSWERED = [CODES.index(code) for code in (Code.TIMEOUT, Code.UNAVAILABLE)]

_Ints = NDArray[np.integer]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Tables:
    """The rows of a run (schema.MESSAGES, schema.DELIVERIES).

    stray: the number of deliveries to wrong devices. It counts each pair of a message and a device that has facts,
        although the device was not entitled to the message. Such pairs have no rows.
    spans: the table schema.SPANS, or None if no spans were recorded.
    nodes: the table schema.NODES, or None if no spans were recorded.
    utilisation: the values `busy`, `jobs` and `drops` of each node of a simulated run.
    """

    messages: pa.Table
    deliveries: pa.Table
    stray: int = 0
    spans: pa.Table | None = None
    nodes: pa.Table | None = None
    utilisation: dict[str, dict[str, float]] | None = None


def assemble(plan: Plan, facts: Facts, *, knows_server: bool) -> Tables:
    """Return the tables of a run of `plan`.

    facts: the recorded facts, in any order.
    knows_server: whether pushes were recorded. If not, the `attempts` of a delivery are null instead of 0.

    A message is `stored` if any fact proves it. This corrects a failure, so the error of a stored message is null. If a
    message has several failures, the last one counts. If a device shows a message twice, the second time is a
    duplicate. The sending device may show its own message again after a login sync; this does not count as stray.
    """
    count = len(plan.at)
    is_of_device = np.isin(facts["kind"], _OF_DEVICES)
    is_known = (facts["intent"] >= 0) & (facts["intent"] < count)
    connections, unknown_intents = facts[is_of_device], facts[~is_of_device & ~is_known]
    facts = _where(~is_of_device & is_known, facts)

    messages, is_stored, is_rejected = _messages(plan, facts)
    deliveries, stray = _deliveries(plan, facts, connections, is_stored, ~is_rejected, knows_server)
    return Tables(messages, deliveries, stray + len(np.unique(unknown_intents[_PAIR])))


def _messages(plan: Plan, facts: Facts) -> tuple[pa.Table, _Bools, _Bools]:
    count = len(plan.at)
    kind, intent, at = facts["kind"], facts["intent"], facts["at"]

    sent = kind == Kind.SENT
    sent_at = _first(intent[sent], at[sent], count)
    stored_at = _first(intent[kind == Kind.STORED], at[kind == Kind.STORED], count)
    received = kind == Kind.RECEIVED
    received_at = _first(intent[received], at[received], count)
    acked_at = _first(intent[kind == Kind.ACKED], at[kind == Kind.ACKED], count)
    attempts = np.bincount(intent[sent], minlength=count)

    is_stored = np.zeros(count, bool)
    is_stored[intent[~np.isin(kind, _NO_PROOFS)]] = True

    failures = facts[kind == Kind.FAILED]
    failures = failures[np.lexsort((failures["extra"], failures["at"]))]
    error = np.full(count, -1)
    error[failures["intent"]] = failures["extra"]  # the last assignment wins: the latest failure
    error[is_stored] = -1

    is_rejected = (error >= 0) & ~np.isin(error, _UNANSWERED)
    outcome = _choose(
        (is_stored, Outcome.STORED),
        (is_rejected, Outcome.REJECTED),
        (attempts > 0, Outcome.UNKNOWN),
        otherwise=Outcome.UNSENT,
    )
    scenes = [conversation.scene for conversation in plan.conversations]
    table = pa.table(
        [
            column(np.arange(count), pa.int64()),
            _strings(plan.sender, plan.users),
            _strings(plan.device, plan.devices),
            _strings(plan.conversation, [conversation.id for conversation in plan.conversations]),
            _strings(plan.conversation, scenes),
            _strings(plan.type, plan.types),
            column(plan.size, pa.int32()),
            column(plan.at, pa.int64()),
            _times(sent_at),
            _times(stored_at),
            _times(received_at),
            _times(acked_at),
            column(attempts, pa.int32()),
            outcome,
            _strings(error, CODES),
        ],
        schema=MESSAGES,
    )
    return table, is_stored, is_rejected & ~is_stored


def _deliveries(
    plan: Plan, facts: Facts, connections: Facts, is_stored: _Bools, is_due: _Bools, knows_server: bool
) -> tuple[pa.Table, int]:
    per_user = len(plan.devices)
    all_devices = len(plan.users) * per_user

    intent, device, is_own = (np.asarray(column) for column in plan.entitled())
    kept = is_due[intent]
    intent, device, is_own = intent[kept].astype(np.int64), device[kept].astype(np.int64), is_own[kept]
    count = len(intent)

    # One number for each pair (intent, device). The numbers ascend, so bisection finds the row of a fact.
    entitled = intent * all_devices + device
    is_recalled = np.zeros(len(plan.at), bool)
    is_recalled[facts["intent"][facts["kind"] == Kind.RECALLED]] = True
    accepted_at = _accepted_at(plan, facts)
    facts = facts[np.isin(facts["kind"], _OF_DELIVERIES)]
    is_device = (facts["device"] >= 0) & (facts["device"] < all_devices)
    pair = facts["intent"].astype(np.int64) * all_devices + facts["device"]
    row = np.searchsorted(entitled, pair)
    found = is_device & (row < count)
    found[found] = entitled[row[found]] == pair[found]

    own_device = plan.sender.astype(np.int64) * per_user + plan.device
    strays = facts[~found & (facts["device"] != own_device[facts["intent"]])]
    strays = strays[~_is_of_guest(plan, strays)]
    stray = len(np.unique(strays[_PAIR]))

    row = row[found]
    facts = _where(found, facts)
    kind, at, extra = facts["kind"], facts["at"], facts["extra"]
    pushed, delivered = kind == Kind.PUSHED, kind == Kind.DELIVERED
    delivered_at = _first(row[delivered], at[delivered], count)
    is_delivered = delivered_at != _NEVER

    winner = delivered & (at == delivered_at[row])
    route = np.where(is_delivered, _first(row[winner], extra[winner], count), -1)

    arrivals = np.bincount(row[delivered | (kind == Kind.DUPLICATE)], minlength=count)
    pushes = np.bincount(row[pushed], minlength=count)
    is_absent = plan.is_excused(intent, device, is_stored)
    is_absent[row[kind == Kind.LEFT_OUT]] = True
    missed = np.flatnonzero(~is_delivered & ~is_absent & (plan.to_room & is_stored)[intent])
    is_absent[missed] = _was_cut_off(connections, device[missed], accepted_at[intent[missed]], plan.room_patience)
    table = pa.table(
        [
            column(intent, pa.int64()),
            _strings(device // per_user, plan.users),
            _strings(device % per_user, plan.devices),
            _strings(is_own.astype(int), [Role.RECIPIENT, Role.OWN]),
            _strings(route, ROUTES),
            _times(_first(row[pushed], at[pushed], count)),
            _times(delivered_at),
            _times(_first(row[kind == Kind.READ], at[kind == Kind.READ], count)),
            column(pushes, pa.int32(), np.full(count, not knows_server)),
            column(arrivals - is_delivered, pa.int32()),
            _choose(
                (is_delivered, DeliveryOutcome.DELIVERED),
                (np.bincount(row[kind == Kind.SHED], minlength=count) > 0, DeliveryOutcome.SHED),
                (is_recalled[intent], DeliveryOutcome.RECALLED),
                (is_absent, DeliveryOutcome.ABSENT),
                otherwise=DeliveryOutcome.LOST,
            ),
        ],
        schema=DELIVERIES,
    )
    return table, stray


def _where(holds: _Bools, facts: Facts) -> Facts:
    """Return the facts for which `holds` is true. If it is true for all facts, they are not copied."""
    return facts if holds.all() else facts[holds]


def _accepted_at(plan: Plan, facts: Facts) -> NDArray[np.int64]:
    """Return when each message was accepted: the time it was stored, otherwise acknowledged, otherwise intended."""
    at = plan.at.astype(np.int64)
    for kind in (Kind.ACKED, Kind.STORED):
        of_kind = facts[facts["kind"] == kind]
        known = _first(of_kind["intent"], of_kind["at"], len(at))
        at = np.where(known == _NEVER, at, known)
    return at


def _was_cut_off(connections: Facts, device: _Ints, accepted_at: NDArray[np.int64], patience: int) -> _Bools:
    """Return whether each device had lost its connection when its message was accepted.

    Only the last loss until `patience` ns after `accepted_at` counts. The device was back if it entered a chatroom
    after that loss and before `patience` ns before `accepted_at`.
    """
    lost = connections[connections["kind"] == Kind.DISCONNECTED]
    back = connections[connections["kind"] == Kind.ENTERED]
    at = np.concatenate((lost["at"], back["at"], accepted_at - patience, accepted_at + patience))
    # A device and the rank of a time among all times make one number, so bisection finds the order of events.
    ranks = np.split(np.unique(at, return_inverse=True)[1], np.cumsum([len(lost), len(back), len(accepted_at)]))
    devices = lost["device"].astype(np.int64), back["device"].astype(np.int64), device, device
    keys = [number * (len(at) + 1) + rank for number, rank in zip(devices, ranks, strict=True)]
    losses, returns = np.sort(keys[0]), np.sort(keys[1])
    latest = np.searchsorted(losses, keys[3], side="right")  # losses of lower devices, and of this one until that time
    loss = np.append(losses, -1)[latest - 1]
    is_own = (latest > 0) & (loss // (len(at) + 1) == device)
    # The next return after the loss counts only if it lies before the time around the message begins.
    came_back = np.searchsorted(returns, loss, side="right") < np.searchsorted(returns, keys[2], side="left")
    was_cut_off: _Bools = is_own & ~came_back
    return was_cut_off


def _is_of_guest(plan: Plan, facts: Facts) -> _Bools:
    """Return whether the device of each fact belongs to a guest of the message's group.

    A delivery to a guest is not expected, but it is not a mistake either.
    """
    users = len(plan.users)
    guests = np.array([conversation * users + user for conversation, user in plan.guests], np.int64)
    conversation, user = plan.conversation.astype(np.int64)[facts["intent"]], facts["device"] // len(plan.devices)
    return np.isin(conversation * users + user, guests) & (user >= 0) & (user < users)


def _first(row: _Ints, value: _Ints, count: int) -> NDArray[np.int64]:
    """Return the smallest value of each row, or _NEVER for a row without a value."""
    first = np.full(count, _NEVER)
    np.minimum.at(first, row, value)
    return first


def _times(values: NDArray[np.int64]) -> pa.Array:
    return column(values, pa.int64(), values == _NEVER)


def _strings(numbers: _Ints, names: Sequence[str]) -> pa.DictionaryArray:
    """Return `names[number]` for each number; null if the number is negative."""
    indices = column(numbers, pa.int32(), numbers < 0)
    values = [str(name) for name in names]
    if len(set(values)) == len(values):
        return pa.DictionaryArray.from_arrays(indices, texts(values))
    # Arrow requires a dictionary without repetitions; the conversations have only a few different scenes.
    distinct = sorted(set(values))
    index = np.array([distinct.index(value) for value in values])
    return _strings(np.where(numbers < 0, -1, index[numbers]), distinct)


def _choose(*cases: tuple[_Bools, str], otherwise: str) -> pa.DictionaryArray:
    """Return for each row the name of the first case that holds, or `otherwise`."""
    names = [*(name for _, name in cases), otherwise]
    numbers = np.select([holds for holds, _ in cases], list(range(len(cases))), len(cases))
    return _strings(numbers, names)


def digest(tables: Tables) -> str:
    """Return the SHA-256 (hex) of all cells of the messages and deliveries. Runs with equal digests have equal rows.

    The digest depends only on the names of the columns, the order of the rows, and the values. It does not depend on
    chunks, the order of dictionaries, the width of integers, the versions of Arrow and pandas, or the platform. The
    lengths of the parts are included, so different cells give different bytes.
    """
    sha = hashlib.sha256()
    for table in (tables.messages, tables.deliveries):
        sha.update(_int(table.num_columns) + _int(table.num_rows))
        for name in table.column_names:
            sha.update(_text(name))
            for part in _canonical(table.column(name)):
                sha.update(part)
    return sha.hexdigest()


def _canonical(cells: pa.ChunkedArray) -> list[bytes]:
    if pa.types.is_string(cells.type):
        cells = cells.dictionary_encode()
    array = cells.unify_dictionaries().combine_chunks()
    if not pa.types.is_dictionary(array.type):
        values, is_valid = integers(array, 0)
        return [b"i", is_valid.tobytes(), values.astype("<i8").tobytes()]

    # Strings: the used values in their order, and the index of each row's value among them (-1 is null).
    name_of, _ = integers(array.indices, -1)
    names = array.dictionary.to_pylist()
    used = sorted({names[number] for number in np.unique(name_of) if number >= 0})
    index = {name: number for number, name in enumerate(used)}
    # The last entry is for null: the index -1 selects it.
    indices = np.array([*(index.get(name, -1) for name in names), -1])
    return [b"s", _int(len(used)), *map(_text, used), indices[name_of].astype("<i8").tobytes()]


def _int(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _text(value: str) -> bytes:
    data = value.encode()
    return _int(len(data)) + data
