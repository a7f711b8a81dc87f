"""Exact results of queueing theory for simple systems: `imsim.theory.mm1_sojourn(rate=80, service=0.01)`.

`help(imsim.analysis.theory)` lists the symbols, the units and the sources.

Example:
    >>> import imsim.theory
    >>> imsim.theory.mm1_sojourn(rate=80, service=0.01)  # seconds; the server is 80 % busy
    0.05...
"""

from imsim.analysis.theory import (
    erlang_c,
    fork_join_sojourn,
    lognormal_moments,
    mg1_wait,
    mm1_sojourn,
    mm1_sojourn_quantile,
    mm1k_blocking,
    mmc_wait,
    mmc_wait_quantile,
    retransmissions,
    retransmissions_quantile,
    tandem_sojourn_quantile,
    utilisation,
)

__all__ = [
    "erlang_c",
    "fork_join_sojourn",
    "lognormal_moments",
    "mg1_wait",
    "mm1_sojourn",
    "mm1_sojourn_quantile",
    "mm1k_blocking",
    "mmc_wait",
    "mmc_wait_quantile",
    "retransmissions",
    "retransmissions_quantile",
    "tandem_sojourn_quantile",
    "utilisation",
]


def __dir__() -> list[str]:
    return __all__
