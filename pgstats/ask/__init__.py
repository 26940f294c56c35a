"""Asks a target every question that fits it: the only door to psycopg2."""

from pgstats.ask.asker import Asker, asker
from pgstats.ask.burst import Burst
from pgstats.ask.connection import parse_dsn
from pgstats.ask.dsn import composed
from pgstats.ask.proof import prove, unmatched
from pgstats.ask.witness import Witness

__all__ = ["Asker", "Burst", "Witness", "asker", "composed", "parse_dsn", "prove", "unmatched"]
