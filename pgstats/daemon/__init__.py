"""The loop of `pgstats run`: one job per target, each on its grid, until a signal ends it."""

from pgstats.daemon.desk import visit
from pgstats.daemon.jobs import Done, Job, Standing
from pgstats.daemon.loop import serve
from pgstats.daemon.rest import Rest

__all__ = ["Done", "Job", "Rest", "Standing", "serve", "visit"]
