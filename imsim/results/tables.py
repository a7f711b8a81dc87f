"""From facts to rows: `assemble` joins what happened with what was intended, `digest` says whether runs are equal."""

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

_NEVER = np.iinfo(np.int64).max  # later than any time: minima stay at it where nothing happened
_OF_DEVICES = (Kind.DISCONNECTED, Kind.ENTERED)  # facts about no message
_OF_DELIVERIES = (Kind.PUSHED, Kind.DELIVERED, Kind.DUPLICATE, Kind.READ, Kind.SHED)
_NO_PROOFS = (Kind.SENT, Kind.RECEIVED, Kind.FAILED)  # a message of which only these are known may not be stored
_PAIR = ["intent", "device"]
_UNANSWERED = [CODES.index(code) for code in (Code.TIMEOUT, Code.UNAVAILABLE)]

_Ints = NDArray[np.integer]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Tables:
    """The rows of a run (schema.MESSAGES, schema.DELIVERIES).

    `stray` counts the (message, device) pairs with facts although the device was not entitled to the message:
    deliveries to a wrong recipient, which no row can show.
    """

    messages: pa.Table
    deliveries: pa.Table
    stray: int = 0
    spans: pa.Table | None = None  # schema.SPANS, where they were recorded
    nodes: pa.Table | None = None  # schema.NODES, likewise
    utilisation: dict[str, dict[str, float]] | None = None  # of each node of a simulated run: busy, jobs, drops


def assemble(plan: Plan, facts: Facts, *, knows_server: bool) -> Tables:
    """The tables of a run of `plan` in which `facts` (in any order) were recorded.

    `knows_server`: whether pushes were recorded at all; where not, a delivery's `attempts` are null instead of 0.

    A message is `stored` as soon as any fact proves it, also after a failure (which is thereby corrected); its error is
    then null. Of several failures the last one counts. A device that showed a message twice has a duplicate. The
    sending device is no stray when it sees its own message again, in a login sync.
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

    # One number per (intent, device), ascending as the entitlements are: a fact's row is found by bisection.
    entitled = intent * all_devices + device
    is_recalled = np.zeros(len(plan.at), bool)
    is_recalled[facts["intent"][facts["kind"] == Kind.RECALLED]] = True
    said = _said(plan, facts)
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
    missed = np.flatnonzero(~is_delivered & ~is_absent & (plan.to_room & is_stored)[intent])
    is_absent[missed] = _was_cut_off(connections, device[missed], said[intent[missed]], plan.room_patience)
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
    """Those for which it holds: mostly all of them, of which no copy is made."""
    return facts if holds.all() else facts[holds]


def _said(plan: Plan, facts: Facts) -> NDArray[np.int64]:
    """When each message came about, as well as is known: stored, or else acknowledged, or else intended."""
    at = plan.at.astype(np.int64)
    for kind in (Kind.ACKED, Kind.STORED):
        of_kind = facts[facts["kind"] == kind]
        known = _first(of_kind["intent"], of_kind["at"], len(at))
        at = np.where(known == _NEVER, at, known)
    return at


def _was_cut_off(connections: Facts, device: _Ints, said: NDArray[np.int64], patience: int) -> _Bools:
    """Of each device, whether within `patience` ns of `said` it had lost its connection and was not back in its
    chatrooms."""
    lost = connections[connections["kind"] == Kind.DISCONNECTED]
    back = connections[connections["kind"] == Kind.ENTERED]
    at = np.concatenate((lost["at"], back["at"], said - patience, said + patience))
    # Times by their rank among all, so that a device's and a time make one number: what follows what is then bisection.
    ranks = np.split(np.unique(at, return_inverse=True)[1], np.cumsum([len(lost), len(back), len(said)]))
    gone = lost["device"].astype(np.int64), back["device"].astype(np.int64)
    keys = [d * (len(at) + 1) + r for d, r in zip((*gone, device, device), ranks, strict=True)]
    losses, returns = np.sort(keys[0]), np.sort(keys[1])
    latest = np.searchsorted(losses, keys[3], side="right")  # losses up to then, of any device up to this one
    loss = np.append(losses, -1)[latest - 1]
    is_own = (latest > 0) & (loss // (len(at) + 1) == device)
    # It is back with the first return after the loss: too late if that is none of its own before the time begins.
    came_back = np.searchsorted(returns, loss, side="right") < np.searchsorted(returns, keys[2], side="left")
    was_cut_off: _Bools = is_own & ~came_back
    return was_cut_off


def _is_of_guest(plan: Plan, facts: Facts) -> _Bools:
    """Of each fact, whether it is about a guest of the message's group: due to nobody, and not a mistake."""
    users = len(plan.users)
    guests = np.array([conversation * users + user for conversation, user in plan.guests], np.int64)
    conversation, user = plan.conversation.astype(np.int64)[facts["intent"]], facts["device"] // len(plan.devices)
    return np.isin(conversation * users + user, guests) & (user >= 0) & (user < users)


def _first(row: _Ints, value: _Ints, count: int) -> NDArray[np.int64]:
    """The smallest value of each row; _NEVER for a row without one."""
    first = np.full(count, _NEVER)
    np.minimum.at(first, row, value)
    return first


def _times(values: NDArray[np.int64]) -> pa.Array:
    return column(values, pa.int64(), values == _NEVER)


def _strings(numbers: _Ints, names: Sequence[str]) -> pa.DictionaryArray:
    """`names[number]` for each number; null where it is negative."""
    indices = column(numbers, pa.int32(), numbers < 0)
    values = [str(name) for name in names]
    if len(set(values)) == len(values):
        return pa.DictionaryArray.from_arrays(indices, texts(values))
    # Arrow wants a dictionary without repetitions (the scenes of all conversations are few).
    distinct = sorted(set(values))
    place = np.array([distinct.index(value) for value in values])
    return _strings(np.where(numbers < 0, -1, place[numbers]), distinct)


def _choose(*cases: tuple[_Bools, str], otherwise: str) -> pa.DictionaryArray:
    """The name of the first condition that holds."""
    names = [*(name for _, name in cases), otherwise]
    numbers = np.select([holds for holds, _ in cases], list(range(len(cases))), len(cases))
    return _strings(numbers, names)


def digest(tables: Tables) -> str:
    """sha256 (hex) over every cell of both tables, by which two runs are "the same".

    Depends on column names, order of rows and values only: not on chunks, the order of dictionaries, integer widths,
    the versions of Arrow and pandas, or the platform. Different cells give different bytes: each part's length is
    known from what stands before it.
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

    # Strings: the used values in order, and each row's place among them (-1: null).
    name_of, _ = integers(array.indices, -1)
    names = array.dictionary.to_pylist()
    used = sorted({names[number] for number in np.unique(name_of) if number >= 0})
    place = {name: number for number, name in enumerate(used)}
    # One more at the end, where index -1 finds it.
    places = np.array([*(place.get(name, -1) for name in names), -1])
    return [b"s", _int(len(used)), *map(_text, used), places[name_of].astype("<i8").tobytes()]


def _int(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _text(value: str) -> bytes:
    data = value.encode()
    return _int(len(data)) + data
