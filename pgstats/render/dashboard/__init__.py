"""Dashboards: the panels, once for each kind of them."""
