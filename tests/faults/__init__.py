"""Faults, on real servers: a table of what happens, to whom, and what must still arrive.

`./dev faults` runs it and prints the table with a verdict for each cell.
"""
