"""`imsim check`: latency budgets as data, judged in simulated time or against a live server.

    file         the budgets of `imsim.toml` or `[tool.imsim]` in pyproject.toml
    simulated    budgets of scenarios: replications, compared with a limit or with a baseline
    baseline     the file of earlier results in the repository
    live         budgets of servers: blocks of load; base and head in pairs
    result       the findings and the verdict
    outputs/     JUnit XML, GitHub annotations and summary

`imsim.analysis.verdicts` has the rules by which evidence becomes a verdict.
"""
