"""Which databases a test of the catalogue runs on.

Lives here: the mark of the tests that PostgreSQL and SQLite may answer differently.
Keep out: fixtures (`conftest.py`).

SQLite and PostgreSQL hold the same tables behind one SQLAlchemy model, and most rules of the catalogue are Python
before them: one database tells as much of those as two. On both run the tests of what the databases do themselves:

- locks and races, and statements that change a row only if nobody else did (claims);
- constraints, and what is said of an error of theirs; what they delete with a row;
- queries that order, page, join or count (readiness, orphans, refreshes, listings, dependents);
- JSON, text of all letters, upper and lower case, and times in their columns;
- the schema itself and its changes; connections across processes.
"""

import pytest

on_both_dialects = pytest.mark.parametrize(
    "dialect", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)
