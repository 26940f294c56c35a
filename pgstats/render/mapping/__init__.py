"""Mappings: how receivers make labels of the names that pgstats ships."""
