from __future__ import annotations

from bench.race import ROWS


def pytest_terminal_summary(terminalreporter):
    """Print the table of measures and goals, if benchmarks were enabled."""
    if ROWS:
        terminalreporter.section("imsim: fast and large")
        width = max(len(row.measure) for row in ROWS)
        for row in ROWS:
            verdict = "yes" if row.meets else "NO"
            measured = f"{row.value:.2f} {row.unit}"
            terminalreporter.write_line(
                f"{row.measure:<{width}}  goal {row.goal:>7}  measured {measured:>12}  {verdict:<3}  {row.detail}"
            )
