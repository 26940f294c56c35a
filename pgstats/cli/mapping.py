"""`pgstats mapping`."""

from __future__ import annotations

from pgstats.cli.rendering import rendering

command = rendering(
    "mapping",
    """Prints the configuration by which a receiver makes labels of the names that are shipped.

    Without KIND the kinds are listed.
    """,
)
