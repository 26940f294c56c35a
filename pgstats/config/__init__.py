"""The configuration: options, environment, file and defaults, merged, checked and shown."""

from __future__ import annotations

from pgstats.config.loading import DEFAULT_FILE, Config, Statsd, load
from pgstats.config.values import seconds

__all__ = ["DEFAULT_FILE", "Config", "Statsd", "load", "seconds"]
