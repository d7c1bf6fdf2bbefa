"""Seed files: size limits, and the column with the ids.

Lives here: the limits of a seed, and the choice of its id column.
Add here when seeds may have another shape.
Keep out: reading (`similarity.seeds`) and reporting (`uploads`).
"""

import re

from cleanroom_pipelines.errors import SeedError

MIN_SEED_IDS = 25
MAX_SEED_IDS = 500_000
# 500,000 ids of 128 characters take 70 MB; the limit is four times that.
MAX_SEED_BYTES = 300_000_000
SEED_COLUMN = "user_id"

# "id", "userid", "household_id": names of an id column, and unlikely as ids themselves.
_NAMES_AN_ID = re.compile(r"([a-z]+[ _-])*(user)?id", re.IGNORECASE)


def choose_seed_column(columns: tuple[str, ...]) -> str:
    """Choose a seed's id column: `user_id` in any case, or the only column if it is named like an id.

    Any other name may be an id in a list without a header: taken as a header, it would be lost and shown in
    reports.

    Raises:
        SeedError: No column qualifies; the attribute `problem` is "columns". The message shows no name that was
            found.
    """
    named = [column for column in columns if column.lower() == SEED_COLUMN]
    if len(named) == 1:
        return named[0]
    if len(columns) == 1 and _NAMES_AN_ID.fullmatch(columns[0]):
        return columns[0]
    raise SeedError(
        f"The seed lacks the column {SEED_COLUMN!r}.",
        remedy=f"Name the id column {SEED_COLUMN}; CSV needs a header row, JSON Lines one object per line.",
        problem="columns",
    )
