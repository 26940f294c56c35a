"""Alerts: the rules, once for each system that evaluates them."""
