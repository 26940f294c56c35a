"""`pgstats alerts`."""

from __future__ import annotations

from pgstats.cli.rendering import rendering

command = rendering(
    "alerts",
    """Prints alert rules, each with its reason and what to do, and the runbook to them.

    Without KIND the kinds are listed.
    """,
)
