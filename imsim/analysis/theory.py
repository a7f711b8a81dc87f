"""What queueing theory says about the simplest systems, exactly: to hold a simulation against, or to ask first.

`rate` is arrivals per second (Poisson), `service` the mean service time in seconds, `workers` those of one station. A
*sojourn* is waiting and service together. Each formula stands with its source:

- Kleinrock, Queueing Systems I, 1975: M/M/1, M/M/c, M/M/1/K, M/G/1.
- Erlang, 1917, and Pollaczek, 1930, Khinchine, 1932, as described there.
- Burke, Operations Research 4 (1956), and Reich, Ann. Math. Stat. 28 (1957): stations in a row are independent.
- Flatto and Hahn, SIAM J. Appl. Math. 44 (1984), and Nelson and Tantawi, IEEE Trans. Computers 37 (1988): fork-join.
"""

from __future__ import annotations

import math


def utilisation(rate: float, service: float, workers: int = 1) -> float:
    """The share of the workers that is busy. Raises: ValueError where it is not below 1, for nothing else has an answer
    then."""
    rho = rate * service / workers
    if not 0 <= rho < 1:
        raise ValueError(f"expected a load below 1, got rate * service / workers = {rho:g}")
    return rho


def erlang_c(rate: float, service: float, workers: int) -> float:
    """M/M/c: the chance that an arrival has to wait (Erlang's C formula; by the recursion of his B, which does not
    overflow)."""
    rho, offered = utilisation(rate, service, workers), rate * service
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - rho * (1 - blocked))


def mmc_wait(rate: float, service: float, workers: int) -> float:
    """M/M/c: the mean wait."""
    return erlang_c(rate, service, workers) * service / (workers * (1 - utilisation(rate, service, workers)))


def mmc_wait_quantile(rate: float, service: float, workers: int, q: float) -> float:
    """M/M/c: the wait below which the share `q` of all waits lies. P(wait > t) = C exp(-(c / service - rate) t)."""
    waits = erlang_c(rate, service, workers)
    return max(0.0, math.log(waits / (1 - q)) / (workers / service - rate))


def mm1_sojourn(rate: float, service: float) -> float:
    """M/M/1: the mean sojourn, service / (1 - rho)."""
    return service / (1 - utilisation(rate, service))


def mm1_sojourn_quantile(rate: float, service: float, q: float) -> float:
    """M/M/1: sojourns are exponential, so p99 is 4.6 means."""
    return -mm1_sojourn(rate, service) * math.log1p(-q)


def mg1_wait(rate: float, service: float, scv: float) -> float:
    """M/G/1: the mean wait, by Pollaczek and Khinchine. `scv`: variance / mean^2 of the service times; 0 where they are
    constant (M/D/1), 1 where exponential."""
    rho = utilisation(rate, service)
    return rho * service * (1 + scv) / (2 * (1 - rho))


def lognormal_moments(median: float, p99: float) -> tuple[float, float]:
    """The mean and the scv of a lognormal distribution that is given as in a scenario."""
    variance = (math.log(p99 / median) / 2.3263478740408408) ** 2  # of the logarithm; the normal distribution's p99
    return median * math.exp(variance / 2), math.expm1(variance)


def mm1k_blocking(rate: float, service: float, room: int) -> float:
    """M/M/1/K: the share of arrivals that find `room` jobs there, waiting or in service, and are dropped. Any load.

    Of a run, compare it with the drops of `run.utilisation()`. With `send_attempts = 1` the share of messages whose
    outcome is `unknown` is slightly larger: a sender's messages to one conversation keep their order, so the router
    serves and refuses a message whose predecessor was dropped less than `send_timeout` before.
    """
    rho = rate * service
    return 1 / (room + 1) if rho == 1 else (1 - rho) * rho**room / (1 - rho ** (room + 1))


def tandem_sojourn_quantile(rate: float, service: float, stations: int, q: float) -> float:
    """As many M/M/1 stations in a row, all alike: the sojourns are independent (Reich) and exponential, so that their
    sum is Erlang: exact end to end."""
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
    """Each arrival makes a job at both of two M/M/1 stations and is done when both are: the mean, (12 - rho) / 8
    times that of one station. Exact (Flatto and Hahn; Nelson and Tantawi)."""
    return (12 - utilisation(rate, service)) / 8 * mm1_sojourn(rate, service)


def retransmissions(loss: float, links: int = 1) -> float:
    """How often a frame is sent again on its way over some links, on average: each time lost with chance `loss`."""
    return links * loss / (1 - loss)


def retransmissions_quantile(loss: float, q: float, links: int = 1) -> int:
    """The same as a quantile: the number is geometric, over several links negative binomial."""
    number, share = 0, (1 - loss) ** links
    total = share
    while total < q:
        number += 1
        share *= loss * (number + links - 1) / number
        total += share
    return number
