"""The configuration: options, environment, file and defaults, merged, checked and shown."""

from __future__ import annotations

from pgstats.config.loading import Config, Statsd, load
from pgstats.config.showing import show

__all__ = ["Config", "Statsd", "load", "show"]
