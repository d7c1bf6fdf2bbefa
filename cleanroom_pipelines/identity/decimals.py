"""Whole numbers that were stored as decimals, such as `41791234567.0`.

Lives here: regular expressions for such numbers and for their decimal tail `.0`, in the syntax of the engine.
Add here when software writes whole numbers in another way.
Keep out: reading the columns (`uploads.cells`).

A column of whole numbers becomes decimal in pandas and in spreadsheets as soon as one cell is missing. Where every
id of a column is a whole number, the tail means nothing. Next to other ids it could be a part of the id, so an id
with a tail is invalid there.
"""

from typing import Final

WHOLE_NUMBER: Final = r"-?[0-9]+([.]0+)?"
DECIMAL_TAIL: Final = r"[.]0+$"
