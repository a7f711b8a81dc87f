"""imsim: simulate an instant-messaging system, then load-test the same code over WebSockets, and compare.

    import imsim
    office = imsim.Scenario.load("office")
    run = imsim.simulate(office, seed=1)
    run.summary()

Names are fetched when first used: `import imsim` itself loads no pandas, no matplotlib, no SimPy and no Locust.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imsim.api import (
        Budget,
        Capacity,
        Comparison,
        CustomDistribution,
        Empirical,
        ImsimError,
        Replications,
        Run,
        RunError,
        Scenario,
        Served,
        Sweep,
        UsageError,
        capacity,
        compare,
        loadtest,
        plot_cdf,
        read_run,
        save_cdf,
        schema,
        serve,
        simulate,
        sweep,
        theory,
    )

__all__ = [
    "Budget",
    "Capacity",
    "Comparison",
    "CustomDistribution",
    "Empirical",
    "ImsimError",
    "Replications",
    "Run",
    "RunError",
    "Scenario",
    "Served",
    "Sweep",
    "UsageError",
    "capacity",
    "compare",
    "loadtest",
    "plot_cdf",
    "read_run",
    "save_cdf",
    "schema",
    "serve",
    "simulate",
    "sweep",
    "theory",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from imsim import api

        value = globals()[name] = getattr(api, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
