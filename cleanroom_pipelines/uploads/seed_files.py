"""Limits of seed files, and the name of their id column.

Lives here: constants that the catalogue and the ways in need without loading the reader.
Add here when seeds have another limit.
Keep out: choosing the column (checks), reading (reading), reporting (files).
"""

MIN_SEED_IDS = 25
MAX_SEED_IDS = 500_000
# 500,000 ids of 128 characters take 70 MB; the limit is four times that.
MAX_SEED_BYTES = 300_000_000
SEED_COLUMN = "user_id"
