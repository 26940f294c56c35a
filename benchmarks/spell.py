"""What spelling costs next to one f-string a line: 10,000 rows of 13 metrics, CPU time.

python -m benchmarks.spell
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from pgstats.model import Frame, Metric, Query, Row
from pgstats.spell import DIALECTS, Speller

ROWS, METRICS, RUNS = 10_000, 13, 7
QUERY = Query(
    "postgres",
    "tables",
    tuple(Metric(f"metric_number_{at}", "A number") for at in range(METRICS)),
    labels={"database": "", "schema": "", "table": ""},
)


def whole(_: int) -> int:
    """As most columns are."""
    return random.randrange(10**6)


def mixed(at: int) -> float | None:
    """Eight columns of whole numbers, three of fractions, two of fractions or unknown."""
    number = round(random.random() * 1e6, 6)
    return int(number) if at < 8 else number if at < 11 or random.random() < 0.5 else None


def bare(rows: list[Row]) -> str:
    """No dialect, no cleaning, no care for a number."""
    lines = []
    for database, schema, table, *numbers in rows:
        path = f"pgstats.postgres.main.tables.{database}.{schema}.{table}."
        for metric, number in zip(QUERY.metrics, numbers, strict=True):
            lines.append(f"{path}{metric.name}:{number}|g\n")
    return "".join(lines)


def microseconds(work: Callable[[], object]) -> float:
    """Per line, the best of several runs."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times) / (ROWS * METRICS) * 1e6


def main() -> None:
    """Print microseconds a line and how many f-strings that is."""
    for values in (whole, mixed):
        rows: list[Row] = [
            ("appdb", "public", f"table_{n}", *map(values, range(METRICS))) for n in range(ROWS)
        ]
        frame = Frame.of(QUERY, QUERY.metrics, rows, "main")
        base = microseconds(lambda rows=rows: bare(rows))  # type: ignore[misc]
        print(f"{values.__name__:6} f-string   {base:.2f} us")
        for name, dialect in DIALECTS.items():
            speller = Speller(dialect, "pgstats", {"env": "prod"})
            took = microseconds(lambda s=speller, f=frame: s.spell(f))  # type: ignore[misc]
            print(f"{values.__name__:6} {name:10} {took:.2f} us, {took / base:.1f}x")


if __name__ == "__main__":
    main()
