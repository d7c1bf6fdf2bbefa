"""Participant queries: SQL by which a participant defines a seed.

Lives here: the allowed SQL of Spark (allowed.py, functions.py), its check (checking.py), its translation for
DuckDB (translating.py, patterns.py, macros.py), and its run in a separate process that can read only the tables it
names (running.py, child.py, confinement.py).
Add here when queries may use, read or return something new.
Keep out: table ownership and permissions (aws), and validating the resulting seed (uploads).
"""
