"""The command line: the only place that knows all stages, and the only door to click."""

from pgstats.cli.main import main

__all__ = ["main"]
