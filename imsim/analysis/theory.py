"""Exact results of queueing theory for simple systems, to check a simulation or to estimate before simulating.

`rate` is the number of arrivals per second (Poisson), `service` the mean service time in seconds, `workers` the number
of workers of a station. A *sojourn* is the time of waiting and service together. Times are in seconds. The sources are:

- Kleinrock, Queueing Systems I, 1975: M/M/1, M/M/c, M/M/1/K, M/G/1.
- Erlang, 1917, Pollaczek, 1930, and Khinchine, 1932, as described there.
- Burke, Operations Research 4 (1956), and Reich, Ann. Math. Stat. 28 (1957): stations in a row are independent.
- Flatto and Hahn, SIAM J. Appl. Math. 44 (1984), and Nelson and Tantawi, IEEE Trans. Computers 37 (1988): fork-join.
"""

from __future__ import annotations

import math


def utilisation(rate: float, service: float, workers: int = 1) -> float:
    """Return the busy share of the workers, rate * service / workers.

    Raises:
        ValueError: the share is not below 1; then no queue has a steady state.
    """
    rho = rate * service / workers
    if not 0 <= rho < 1:
        raise ValueError(f"rate * service / workers: must be at least 0 and below 1 (got {rho:g})")
    return rho


def erlang_c(rate: float, service: float, workers: int) -> float:
    """Return the probability that an arrival to M/M/c has to wait: Erlang's C formula.

    The computation uses the recursion of Erlang's B formula, which does not overflow.
    """
    rho, offered = utilisation(rate, service, workers), rate * service
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - rho * (1 - blocked))


def mmc_wait(rate: float, service: float, workers: int) -> float:
    """Return the mean wait of M/M/c."""
    return erlang_c(rate, service, workers) * service / (workers * (1 - utilisation(rate, service, workers)))


def mmc_wait_quantile(rate: float, service: float, workers: int, q: float) -> float:
    """Return the wait of M/M/c that the share `q` of all waits does not exceed.

    P(wait > t) = C exp(-(c / service - rate) t).
    """
    waits = erlang_c(rate, service, workers)
    return max(0.0, math.log(waits / (1 - q)) / (workers / service - rate))


def mm1_sojourn(rate: float, service: float) -> float:
    """Return the mean sojourn of M/M/1, service / (1 - rho)."""
    return service / (1 - utilisation(rate, service))


def mm1_sojourn_quantile(rate: float, service: float, q: float) -> float:
    """Return a quantile of the sojourn of M/M/1. Sojourns are exponential, so p99 is 4.6 times the mean."""
    return -mm1_sojourn(rate, service) * math.log1p(-q)


def mg1_wait(rate: float, service: float, scv: float) -> float:
    """Return the mean wait of M/G/1, by the formula of Pollaczek and Khinchine.

    Args:
        rate: arrivals per second.
        service: the mean service time.
        scv: variance / mean^2 of the service times: 0 if they are constant (M/D/1), 1 if they are exponential.
    """
    rho = utilisation(rate, service)
    return rho * service * (1 + scv) / (2 * (1 - rho))


def lognormal_moments(median: float, p99: float) -> tuple[float, float]:
    """Return the mean and the scv (variance / mean^2) of a lognormal distribution as a scenario describes it."""
    variance = (math.log(p99 / median) / 2.3263478740408408) ** 2  # of the logarithm; the normal distribution's p99
    return median * math.exp(variance / 2), math.expm1(variance)


def mm1k_blocking(rate: float, service: float, room: int) -> float:
    """Return the share of arrivals to M/M/1/K that find `room` jobs, waiting or in service, and are dropped.

    The load may be 1 or more. Compare the share with the drops of `run.utilisation()`. With `send_attempts = 1` the
    share of messages whose outcome is `unknown` is slightly larger: a sender's messages to one conversation keep their
    order, so the router serves and refuses a message whose predecessor was dropped less than `send_timeout` earlier.
    """
    rho = rate * service
    return 1 / (room + 1) if rho == 1 else (1 - rho) * rho**room / (1 - rho ** (room + 1))


def tandem_sojourn_quantile(rate: float, service: float, stations: int, q: float) -> float:
    """Return a quantile of the total sojourn in equal M/M/1 stations in a row.

    The sojourns are independent (Reich) and exponential, so their sum has an Erlang distribution: exact end to end.
    """
    mean = mm1_sojourn(rate, service)

    def share_above(x: float) -> float:
        return math.exp(-x) * math.fsum(x**k / math.factorial(k) for k in range(stations))

    low, high = 0.0, 1.0
    while share_above(high) > 1 - q:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if share_above(middle) > 1 - q else (low, middle)
    return mean * high


def fork_join_sojourn(rate: float, service: float) -> float:
    """Return the mean sojourn of fork-join: each arrival makes a job at two M/M/1 stations and waits for both.

    It is exactly (12 - rho) / 8 times the mean of one station (Flatto and Hahn; Nelson and Tantawi).
    """
    return (12 - utilisation(rate, service)) / 8 * mm1_sojourn(rate, service)


def retransmissions(loss: float, links: int = 1) -> float:
    """Return the mean number of retransmissions of a frame over `links` links, each of which loses a share `loss`."""
    return links * loss / (1 - loss)


def retransmissions_quantile(loss: float, q: float, links: int = 1) -> int:
    """Return a quantile of the number of retransmissions, which is geometric; over several links negative binomial."""
    number, share = 0, (1 - loss) ** links
    total = share
    while total < q:
        number += 1
        share *= loss * (number + links - 1) / number
        total += share
    return number
