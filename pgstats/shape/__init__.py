"""Adds to a poll's answers what follows from them. Pure: frames and a memory in, frames out."""

from pgstats.shape.derived import derived
from pgstats.shape.group import spread
from pgstats.shape.overcommit import commit, overcommit
from pgstats.shape.own import frames, job, shipping
from pgstats.shape.retired import ended, restore, retired

__all__ = [
    "commit",
    "derived",
    "ended",
    "frames",
    "job",
    "overcommit",
    "restore",
    "retired",
    "shipping",
    "spread",
]
