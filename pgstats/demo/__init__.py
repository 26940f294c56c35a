"""The demonstration: a shop that makes clients queue, and a board that shows what is shipped."""

from pgstats.demo.board import Board, healthy
from pgstats.demo.shop import CLIENTS, POOL_SIZE, SCHEMA, Client, configuration

__all__ = ["CLIENTS", "POOL_SIZE", "SCHEMA", "Board", "Client", "configuration", "healthy"]
