"""Asks a target every question that fits it: the only door to psycopg2."""

from pgstats.ask.asker import Asker, asker, unmatched
from pgstats.ask.connection import parse_dsn
from pgstats.ask.dsn import composed

__all__ = ["Asker", "asker", "composed", "parse_dsn", "unmatched"]
