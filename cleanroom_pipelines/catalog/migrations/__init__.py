"""Migrations: how an older catalogue becomes a newer one.

Lives here: Alembic's environment and, in `versions/`, one module per change of the tables.
Add here when `tables.py` changes; then move `HEAD_REVISION` in `database.py`.
Keep out: anything else; these modules are never imported by the package itself.
"""
