"""Polls PgBouncer and PostgreSQL and ships gauges to statsd."""

__version__ = "0.1.0"
