"""The conversations of a plan: groups, chatrooms and p2p partners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imsim.core.model import Scene
from imsim.scenario.distributions import Distribution
from imsim.scenario.draws import Draws
from imsim.scenario.model import Scenario
from imsim.scenario.workload.columns import Floats, Int64s, places, starts
from imsim.scenario.workload.planned import PlannedConversation, conversation_of


@dataclass(frozen=True)
class Groups:
    """The members of groups or chatrooms: pairs (group, user), once sorted by group and once sorted by user."""

    first: Int64s  # index of each group's first member in `members`; the last entry is len(members)
    members: Int64s
    first_of: Int64s  # index of each user's first group in `groups_of`; the last entry is len(groups_of)
    groups_of: Int64s

    @classmethod
    def drawn(cls, seed: int, what: str, count: int, size: Distribution, users: int, limit: int) -> Groups:
        number = np.arange(count)
        sizes = np.rint(size.quantiles(Draws(seed, f"{what} size").array(number)))
        sizes = np.clip(sizes, 1, min(users, limit)).astype(np.int64)
        members = chosen(Draws(seed, f"{what} members"), number, sizes, np.full(count, users))
        group = np.repeat(number, sizes)
        by_group = np.lexsort((members, group))
        by_user = np.lexsort((group, members))
        return cls(
            first=starts(sizes),
            members=members[by_group],
            first_of=starts(np.bincount(members, minlength=users)),
            groups_of=group[by_user],
        )

    def count_of(self, user: Int64s) -> Int64s:
        """Return the number of groups of each user."""
        return self.first_of[user + 1] - self.first_of[user]

    def picked(self, user: Int64s, u: Floats, skew: float = 0.0) -> Int64s:
        """Return a random group of each user. With skew 0, all are equally likely; else the probability of group g is
        proportional to 1 / (g + 1) ** skew (Zipf)."""
        if skew == 0:
            return self.groups_of[self.first_of[user] + (u * self.count_of(user)).astype(np.int64)]
        through = np.concatenate(([0.0], np.cumsum((self.groups_of + 1.0) ** -skew)))
        first, end = self.first_of[user], self.first_of[user + 1]
        weight = through[first] + u * (through[end] - through[first])
        place = np.searchsorted(through, weight, side="right") - 1
        number: Int64s = self.groups_of[np.clip(place, first, end - 1)]  # rounding can lead to a neighbour
        return number

    def conversations(self, scene: Scene, prefix: str) -> list[PlannedConversation]:
        members, first = self.members.tolist(), self.first.tolist()
        return [
            conversation_of(scene, f"{prefix}{g}", tuple(members[first[g] : first[g + 1]]))
            for g in range(len(first) - 1)
        ]


def partners(scenario: Scenario, seed: int, sender: Int64s, u: Floats) -> Int64s:
    """Return a random partner of each sender. With partner_skew 0, all are equally likely; else the probability of the
    k-th closest partner is proportional to 1 / k ** partner_skew (Zipf). Partners are drawn only for users who send.
    """
    many, skew = scenario.conversations.partners, scenario.conversations.partner_skew
    row, place = np.unique(sender, return_inverse=True)
    others = np.full(len(row), scenario.population.users - 1)
    table = chosen(Draws(seed, "partners"), row, np.full(len(row), many), others).reshape(-1, many)
    table += table >= row[:, None]  # numbers among the other users: skip the sender
    if skew == 0:
        return table[place, (u * many).astype(np.int64)]
    shares = np.cumsum(np.arange(1.0, many + 1) ** -skew)
    closeness = np.searchsorted(shares[:-1] / shares[-1], u, side="right")
    # The closest partner is drawn, too, because small numbers are more often in the first columns of the table.
    closest = (Draws(seed, "closest partner").array(row) * many).astype(np.int64)
    partner: Int64s = table[place, (closest[place] + closeness) % many]
    return partner


def partner_of(scenario: Scenario, seed: int, sender: int, u: float) -> int:
    """Return the partner of this sender for a random number `u` in [0, 1)."""
    return int(partners(scenario, seed, np.array([sender]), np.array([u]))[0])


def numbered_pairs(sender: Int64s, partner: Int64s) -> tuple[Int64s, Iterator[tuple[int, int]]]:
    """Return the number of each message's pair, in order of first appearance, and the pairs (smaller index first)."""
    one, other = np.minimum(sender, partner), np.maximum(sender, partner)
    _, first, place = np.unique((one << 32) | other, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[place], zip(one[first[order]].tolist(), other[first[order]].tolist(), strict=True)


def chosen(draws: Draws, rows: Int64s, sizes: Int64s, populations: Int64s) -> Int64s:
    """Return a random subset for each row, concatenated: `sizes` numbers out of range(population).

    Reservoir sampling (Li's algorithm L, 1994), for all rows at once. A new number of the population enters a subset
    with its fair probability and replaces one member, so a larger population leaves nearly all subsets unchanged. It
    takes about size * ln(population / size) steps for the largest row.
    """
    first = np.cumsum(sizes) - sizes
    chosen = places(sizes)  # start with the first numbers
    active = np.arange(len(rows))
    latest = sizes - 1.0  # the last number that each row has examined
    log_w = np.zeros(len(rows))  # log of the probability that a number enters
    step = 0
    while True:
        log_w = log_w + np.log(draws.array(rows[active], 3 * step)) / sizes[active]
        with np.errstate(divide="ignore"):  # a probability that rounds to 1 skips no number
            skipped = np.floor(np.log(draws.array(rows[active], 3 * step + 1)) / np.log(-np.expm1(log_w)))
        latest = latest + skipped + 1
        going_on = latest < populations[active]
        active, latest, log_w = active[going_on], latest[going_on], log_w[going_on]
        if not len(active):
            return chosen
        slot = (draws.array(rows[active], 3 * step + 2) * sizes[active]).astype(np.int64)
        chosen[first[active] + slot] = latest.astype(np.int64)
        step += 1
