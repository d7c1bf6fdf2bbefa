"""Queries: seeds that a participant asks for in SQL.

Lives here: what such a query may say (allowed.py), its check (checking.py), and its run in a process of its own
that reads the named tables and nothing else (running.py, child.py, confinement.py).
Add here when a query may say, read or return something further.
Keep out: whose table a name means and who may ask (cleanroomsml); reading the seed it made (similarity,
validation).
"""
