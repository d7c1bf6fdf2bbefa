"""Seeds: how large a list may be, and which of its columns holds the ids.

Lives here: the limits of a seed, and the choice of its column.
Add here when a seed may come in another shape.
Keep out: reading (`similarity.seeds`) and reporting (`uploads`).
"""

import re

from cleanroom_pipelines.errors import SeedError

MIN_SEED_IDS = 25
MAX_SEED_IDS = 500_000
# 500,000 ids of 128 characters take 70 MB; four times as much is no seed.
MAX_SEED_BYTES = 300_000_000
SEED_COLUMN = "user_id"

# "id", "userid", "household_id": words for an id, which an id itself hardly is.
_NAMES_AN_ID = re.compile(r"([a-z]+[ _-])*(user)?id", re.IGNORECASE)


def choose_seed_column(columns: tuple[str, ...]) -> str:
    """The column that holds a seed's ids: `user_id` in any case, else the only column, if it is named like an id.

    Another name may be an id itself, in a list without a header: taking it for a header would lose it, and tell it
    in reports.

    Raises:
        SeedError: There is no such column; the attribute `problem` is "columns". No name that was found is told.
    """
    named = [column for column in columns if column.lower() == SEED_COLUMN]
    if len(named) == 1:
        return named[0]
    if len(columns) == 1 and _NAMES_AN_ID.fullmatch(columns[0]):
        return columns[0]
    raise SeedError(
        f"The seed lacks the column {SEED_COLUMN!r}.",
        remedy="Give CSV a header row, JSON Lines one object per line, and name the column of the ids "
        f"{SEED_COLUMN}.",
        problem="columns",
    )
