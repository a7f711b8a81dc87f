"""The rows of a run: `assemble` joins its facts with its plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imsim.core.model import Code
from imsim.results.absences import Absences
from imsim.results.columns import Names, column
from imsim.results.pieces import Partition, pieces_of
from imsim.results.recorder import CODES, ROUTES, Facts, Kind
from imsim.results.schema import DELIVERIES, MESSAGES, DeliveryOutcome, Outcome, Role

if TYPE_CHECKING:
    from imsim.scenario import Plan

_NEVER = np.iinfo(np.int64).max  # later than any time, so it is the minimum of no times
_OF_DELIVERIES = (Kind.PUSHED, Kind.DELIVERED, Kind.DUPLICATE, Kind.READ, Kind.SHED, Kind.LEFT_OUT)
_NO_PROOFS = (Kind.SENT, Kind.RECEIVED, Kind.FAILED)  # facts that do not prove that the message is stored
_PAIR = ["intent", "device"]
_UNANSWERED = [CODES.index(code) for code in (Code.TIMEOUT, Code.UNAVAILABLE)]
_PART = 200_000  # messages and deliveries that are assembled at once

_Ints = NDArray[np.integer]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Offers:
    """The features of a server, and of its recorder, on which the meaning of rows depends.

    pushes: the pushes of the server are recorded. Otherwise the `attempts` of a delivery are null instead of 0.
    acks: the sender learns that the server has a message. Otherwise `acked_at` is null.
    resume: a device that was offline receives later what it missed. Otherwise such deliveries are absent.
    own_devices: a message also reaches the other devices of its sender. Otherwise such deliveries are absent.
    membership: a device is entitled to messages by the membership of its user. Otherwise what was sent before it
        logged in and joined its groups for the first time is absent.
    """

    pushes: bool = True
    acks: bool = True
    resume: bool = True
    own_devices: bool = True
    membership: bool = True


EVERYTHING = Offers()


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The effects of devices that the tester took out of the test.

    devices: the number of devices. messages: the number of their messages that have no answer. deliveries: the number
    of deliveries that are absent for this reason.
    """

    devices: int
    messages: int
    deliveries: int


@dataclass(frozen=True)
class Tables:
    """The rows of a run in memory (schema.MESSAGES, schema.DELIVERIES).

    stray: the number of deliveries to wrong devices. It counts each pair of a message and a device that has facts,
        although the device was not entitled to the message. Such pairs have no rows.
    spans: the table schema.SPANS, or None if no spans were recorded.
    nodes: the table schema.NODES, or None if no spans were recorded.
    withdrawals: the table schema.WITHDRAWALS, or None if no device was withdrawn.
    utilisation: the values `busy`, `jobs` and `drops` of each node of a simulated run.
    """

    messages: pa.Table
    deliveries: pa.Table
    stray: int = 0
    spans: pa.Table | None = None
    nodes: pa.Table | None = None
    withdrawals: pa.Table | None = None
    utilisation: dict[str, dict[str, float]] | None = None

    def has(self, table: str) -> bool:
        """Return whether the run has this table."""
        return getattr(self, table) is not None

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        count: int = self.table(table).num_rows
        return count

    def column(self, table: str, name: str) -> pa.ChunkedArray:
        """Return a column of a table."""
        return self.table(table).column(name)

    def table(self, table: str) -> pa.Table:
        """Return a table."""
        return getattr(self, table)


def assemble(plan: Plan, facts: Facts | Sequence[Facts], offers: Offers = EVERYTHING) -> Tables:
    """Return the tables of a run of `plan`. See `Assembly`."""
    return Assembly(plan, facts, offers).tables()


class Assembly:
    """The assembly of the rows of a run of `plan`, in parts, so that it takes little memory.

    facts: the recorded facts, in any order, in one array or in pieces.
    offers: what the server offers.
    undecided_since: missing deliveries of messages that were intended at this time (ns) or later are absent, because
        the tester did not wait for them.

    A message is `stored` if any fact proves it. This corrects a failure, so the error of a stored message is null. If a
    message has several failures, the last one counts. If a device shows a message twice, the second time is a
    duplicate. The sending device may show its own message again after a login sync; this does not count as stray.

    The missing deliveries of a device that the tester withdrew and did not bring back are absent. So are those of a
    message without an answer whose sender's device was withdrawn after the intended time.
    """

    def __init__(
        self,
        plan: Plan,
        facts: Facts | Sequence[Facts],
        offers: Offers = EVERYTHING,
        *,
        undecided_since: int | None = None,
    ) -> None:
        self._plan = plan
        self._offers = offers
        self._undecided_since = _NEVER if undecided_since is None else undecided_since
        self._starts = _starts(plan)
        self._facts = Partition(pieces_of(facts), self._starts, len(plan))
        self._absences = Absences(self._facts.of_devices, len(plan.users) * len(plan.devices))
        self._users, self._devices = Names(plan.users), Names(plan.devices)
        self._conversations = Names([conversation.id for conversation in plan.conversations])
        self._scenes = Names([conversation.scene for conversation in plan.conversations])
        self._types = Names(plan.types)
        self.withdrawals = self._absences.table(plan.users, plan.devices)
        """The table schema.WITHDRAWALS, or None."""
        self.stray = len(np.unique(self._facts.unknown[_PAIR]))
        """The number of deliveries to wrong devices. It is complete after the last part."""
        self._withdrawn_messages = self._withdrawn_deliveries = 0

    @property
    def withdrawn(self) -> Withdrawn | None:
        """The effects of withdrawn devices, or None if there were none. They are complete after the last part."""
        if not self._absences.has_withdrawn:
            return None
        devices = len(np.unique(self._absences.device))
        return Withdrawn(devices, self._withdrawn_messages, self._withdrawn_deliveries)

    def tables(self) -> Tables:
        """Return all rows, in memory."""
        messages, deliveries = (pa.concat_tables(parts) for parts in zip(*self.parts(), strict=True))
        return Tables(messages, deliveries, self.stray, withdrawals=self.withdrawals)

    def parts(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield the messages of each range of intents, at least one, and their deliveries."""
        for number, (start, end) in enumerate(zip(self._starts, [*self._starts[1:], len(self._plan)], strict=True)):
            plan = self._plan if end - start == len(self._plan) else self._plan.part(start, end)
            facts = self._facts.of(number)
            messages, is_stored, is_rejected = self._part_of_messages(plan, facts, start)
            yield messages, self._part_of_deliveries(plan, facts, is_stored, ~is_rejected, start)

    def _part_of_messages(self, plan: Plan, facts: Facts, start: int) -> tuple[pa.Table, _Bools, _Bools]:
        count = len(plan.at)
        kind, intent, at = facts["kind"], facts["intent"], facts["at"]

        sent = kind == Kind.SENT
        sent_at = _first(intent[sent], at[sent], count)
        stored_at = _first(intent[kind == Kind.STORED], at[kind == Kind.STORED], count)
        received = kind == Kind.RECEIVED
        received_at = _first(intent[received], at[received], count)
        acked = (kind == Kind.ACKED) & self._offers.acks
        acked_at = _first(intent[acked], at[acked], count)
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
        table = pa.table(
            [
                column(np.arange(start, start + count), pa.int64()),
                self._users.column(plan.sender),
                self._devices.column(plan.device),
                self._conversations.column(plan.conversation),
                self._scenes.column(plan.conversation),
                self._types.column(plan.type),
                column(plan.size, pa.int32()),
                column(plan.at, pa.int64()),
                _times(sent_at),
                _times(stored_at),
                _times(received_at),
                _times(acked_at),
                column(attempts, pa.int32()),
                outcome,
                _CODES.column(error),
            ],
            schema=MESSAGES,
        )
        return table, is_stored, is_rejected & ~is_stored

    def _part_of_deliveries(self, plan: Plan, facts: Facts, is_stored: _Bools, is_due: _Bools, start: int) -> pa.Table:
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

        own_device = plan.sending_devices
        strays = facts[~found & (facts["device"] != own_device[facts["intent"]])]
        strays = strays[~_is_of_guest(plan, strays)]
        self.stray += len(np.unique(strays[_PAIR]))

        row = row[found]
        facts = facts if found.all() else facts[found]
        kind, at, extra = facts["kind"], facts["at"], facts["extra"]
        pushed, delivered = kind == Kind.PUSHED, kind == Kind.DELIVERED
        delivered_at = _first(row[delivered], at[delivered], count)
        is_delivered = delivered_at != _NEVER

        winner = delivered & (at == delivered_at[row])
        route = np.where(is_delivered, _first(row[winner], extra[winner], count), -1)

        arrivals = np.bincount(row[delivered | (kind == Kind.DUPLICATE)], minlength=count)
        pushes = np.bincount(row[pushed], minlength=count)
        is_shed = np.bincount(row[kind == Kind.SHED], minlength=count) > 0
        is_missing = ~is_delivered & ~is_shed & ~is_recalled[intent]
        is_absent = self._is_absent(plan, intent, device, is_own, is_missing, is_stored, is_due, accepted_at)
        is_absent[row[kind == Kind.LEFT_OUT]] = True
        return pa.table(
            [
                column(intent + start, pa.int64()),
                self._users.column(device // per_user),
                self._devices.column(device % per_user),
                _ROLES.column(is_own.astype(int)),
                _ROUTES.column(route),
                _times(_first(row[pushed], at[pushed], count)),
                _times(delivered_at),
                _times(_first(row[kind == Kind.READ], at[kind == Kind.READ], count)),
                column(pushes, pa.int32(), np.full(count, not self._offers.pushes)),
                column(arrivals - is_delivered, pa.int32()),
                _choose(
                    (is_delivered, DeliveryOutcome.DELIVERED),
                    (is_shed, DeliveryOutcome.SHED),
                    (is_recalled[intent], DeliveryOutcome.RECALLED),
                    (is_absent, DeliveryOutcome.ABSENT),
                    otherwise=DeliveryOutcome.LOST,
                ),
            ],
            schema=DELIVERIES,
        )

    def _is_absent(
        self,
        plan: Plan,
        intent: NDArray[np.int64],
        device: NDArray[np.int64],
        is_own: _Bools,
        is_missing: _Bools,
        is_stored: _Bools,
        is_due: _Bools,
        accepted_at: NDArray[np.int64],
    ) -> _Bools:
        """Return whether each delivery, if it is missing, is missing for a reason that is not the server's fault."""
        offers, absences = self._offers, self._absences
        is_absent = plan.is_excused(intent, device, is_stored, is_kept=offers.resume)
        is_absent |= (plan.at >= self._undecided_since)[intent]
        if not offers.own_devices:
            is_absent |= is_own

        # Nothing keeps these messages for devices that are not connected.
        is_fleeting = is_stored & plan.to_room if offers.resume else is_stored
        if not offers.membership:
            is_fleeting |= is_stored & plan.to_opened
        missed = np.flatnonzero(is_missing & ~is_absent & is_fleeting[intent])
        cut_off = missed[absences.was_cut_off(device[missed], accepted_at[intent[missed]], plan.room_patience)]
        if not offers.membership:
            missed = np.flatnonzero(is_missing & ~is_absent)
            is_early = absences.had_not_entered(device[missed], accepted_at[intent[missed]] - plan.room_patience)
            cut_off = np.union1d(cut_off, missed[is_early])
        is_absent[cut_off] = True
        if absences.has_withdrawn:
            is_without_answer = is_due & ~is_stored & absences.is_withdrawn_after(plan.sending_devices, plan.at)
            is_withdrawn = (absences.is_withdrawn_at_end(device) | is_without_answer[intent]) & ~is_absent
            is_withdrawn[cut_off] = absences.was_withdrawn(device[cut_off])
            is_absent |= is_withdrawn
            self._withdrawn_messages += int(is_without_answer.sum())
            self._withdrawn_deliveries += int((is_withdrawn & is_missing).sum())
        return is_absent


_CODES, _ROLES, _ROUTES = Names(CODES), Names([Role.RECIPIENT, Role.OWN]), Names(ROUTES)


def _starts(plan: Plan) -> list[int]:
    """Return the first intent of each part. A part has about _PART messages and deliveries, and at least a message."""
    if not len(plan):
        return [0]
    rows = 1 + plan.memberships[0][plan.conversation] * len(plan.devices)
    number = (np.cumsum(rows) - rows) // _PART
    return [0, *(np.flatnonzero(np.diff(number)) + 1).tolist()]


def _accepted_at(plan: Plan, facts: Facts) -> NDArray[np.int64]:
    """Return when each message was accepted: the time it was stored, otherwise acknowledged, otherwise intended."""
    at = plan.at.astype(np.int64)
    for kind in (Kind.ACKED, Kind.STORED):
        of_kind = facts[facts["kind"] == kind]
        known = _first(of_kind["intent"], of_kind["at"], len(at))
        at = np.where(known == _NEVER, at, known)
    return at


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


def _choose(*cases: tuple[_Bools, str], otherwise: str) -> pa.DictionaryArray:
    """Return for each row the name of the first case that holds, or `otherwise`."""
    names = [*(name for _, name in cases), otherwise]
    numbers = np.select([holds for holds, _ in cases], list(range(len(cases))), len(cases))
    return Names(names).column(numbers)
