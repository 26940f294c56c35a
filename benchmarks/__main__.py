"""Measure, print, and write RESULTS.md: ``./dev bench [--quick] [CASE...]``."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.case import Case, Result
from benchmarks.cases import CASES
from benchmarks.lab import Lab
from pgstats.scratch import find_binaries

RESULTS = Path(__file__).parent / "RESULTS.md"
#: What stands below this line in RESULTS.md is written by people and stays.
_NOTES = "## Notes\n"


def main(arguments: list[str]) -> None:
    """All cases, or those named; only a full run is written down."""
    quick = "--quick" in arguments
    named = [word for word in arguments if not word.startswith("-")]
    if unknown := set(named) - {case.name for case in CASES}:
        raise SystemExit(f"no such case: {', '.join(unknown)}")
    chosen = [c for c in CASES if (c.name in named if named else c.quick or not quick)]
    started, results = time.monotonic(), dict[Case, Result]()
    with ExitStack() as stack:
        lab = Lab(stack, quick=quick)
        for case in chosen:
            results[case] = case.work(lab)
            print(report.section(case, results[case]), flush=True)
    print(report.summary(results))
    print(f"{len(results)} cases in {time.monotonic() - started:.0f} s")
    if not quick and not named:
        write(results)


def write(results: dict[Case, Result]) -> None:
    """RESULTS.md anew, but for the notes."""
    binaries = find_binaries()
    servers: list[list[str | Path]] = [
        [binaries.postgres / "postgres", "--version"],
        [binaries.pgbouncer, "--version"],
        ["prometheus-postgres-exporter", "--version"],
        ["node", "--version"],
    ]
    before = RESULTS.read_text("utf-8") if RESULTS.exists() else _NOTES
    notes = before[before.index(_NOTES) :] if _NOTES in before else _NOTES
    parts = [
        "# Results\n\nWritten by `make bench`, the notes at the end excepted. Medians of rounds in"
        " which all take turns; ratios are\nmedians over the rounds. CPU time is what counts: the"
        " machine is shared. `peak` of a server's session is the memory\nthat is its own.\n",
        report.heading(servers) + "\n",
        "## Goals\n",
        report.summary(results),
        "## Cases\n",
        *(report.section(case, result) for case, result in results.items()),
        notes,
    ]
    RESULTS.write_text("\n".join(parts), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
