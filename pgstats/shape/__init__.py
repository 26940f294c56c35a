"""Adds to a poll's answers what follows from them. Pure: frames and a memory in, frames out."""

from pgstats.shape.derived import derived
from pgstats.shape.group import spread
from pgstats.shape.overcommit import Leading, commit, leading, overcommit
from pgstats.shape.own import frames, job, shipping
from pgstats.shape.retired import Glance, ended, restore, retired

__all__ = [
    "Glance",
    "Leading",
    "commit",
    "derived",
    "ended",
    "frames",
    "job",
    "leading",
    "overcommit",
    "restore",
    "retired",
    "shipping",
    "spread",
]
