"""Receivers of statsd lines: what they would read, as tables, and real ones as private servers."""
