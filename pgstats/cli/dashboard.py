"""`pgstats dashboard`."""

from __future__ import annotations

from pgstats.cli.rendering import rendering

command = rendering(
    "dashboard",
    """Prints a dashboard for the configured prefix, dialect and targets.

    One page: at the top what to decide by, at the bottom why it is so. Without KIND the kinds are
    listed.
    """,
)
