"""Participant queries: seeds defined by SQL.

Lives here: the allowed SQL (allowed.py), its check (checking.py), and its run in a separate process that can read
only the tables it names (running.py, child.py, confinement.py).
Add here when queries may use, read or return something new.
Keep out: table ownership and permissions (aws), and validating the resulting seed (uploads).
"""
