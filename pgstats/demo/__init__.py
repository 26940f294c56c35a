"""The demonstration: a shop that makes clients queue."""

from pgstats.demo.shop import CLIENTS, POOL_SIZE, SCHEMA, Client, configuration

__all__ = ["CLIENTS", "POOL_SIZE", "SCHEMA", "Client", "configuration"]
