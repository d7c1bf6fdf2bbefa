"""Migrations: the steps that bring the schema of an older catalogue up to date.

Lives here: Alembic's environment and, in `versions/`, one module per change of the tables.
Add here when `tables.py` changes; then move `HEAD_REVISION` in `database.py`.
Keep out: anything else; these modules are never imported by the package itself.
"""
