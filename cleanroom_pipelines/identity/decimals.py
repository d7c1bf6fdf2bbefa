r"""Whole numbers that were stored as decimals, such as `41791234567.0`.

Lives here: recognising the decimal tail of ids, and removing it.
Add here when software writes whole numbers in another way.
Keep out: reading the columns (`uploads`, `cli.activating`).

A column of whole numbers becomes decimal in pandas and in spreadsheets as soon as one cell is missing. Where every
id of a column is a whole number, the tail means nothing. Next to other ids it could be a part of the id, so an id
with a tail is invalid there.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.identity.placeholders import are_placeholders

# Both also in the dialect of the engine.
WHOLE_NUMBER: Final = r"-?[0-9]+([.]0+)?"
DECIMAL_TAIL: Final = r"[.]0+$"
_WITH_TAIL = r"\A\s*-?[0-9]+[.]0+\s*\z"


def with_tail(ids: pa.Array) -> npt.NDArray[np.bool_]:
    """Return, for each id, whether it is a whole number with a decimal tail such as `.0`; false for nulls."""
    # By the last byte first: it is several times faster than searching the texts.
    likely = pc.or_(pc.ends_with(ids, "0"), pc.or_(pc.ends_with(ids, " "), pc.ends_with(ids, "\t")))
    found = np.asarray(pc.fill_null(likely, False))
    if found.any():
        found = found.copy()
        found[found] = np.asarray(pc.match_substring_regex(ids.filter(pa.array(found)), _WITH_TAIL))
    return found


def without_tail(ids: pa.Array) -> pa.Array:
    """Remove the decimal tails of ids that are whole numbers; other ids stay as they are."""
    tailed = with_tail(ids)
    if not tailed.any():
        return ids
    plain = pc.replace_substring_regex(ids.filter(pa.array(tailed)), r"[.]0+(\s*)\z", r"\1")
    return pc.replace_with_mask(ids, pa.array(tailed), plain)


def are_whole_numbers(batches: Iterable[pa.Array]) -> bool:
    """Whether every id of a column is a whole number; missing ids and placeholders do not count."""
    for ids in batches:
        trimmed = pc.utf8_trim_whitespace(ids.drop_null())
        given = trimmed.filter(pa.array(~are_placeholders(trimmed)))
        if not pc.all(pc.match_substring_regex(given, rf"\A(?:{WHOLE_NUMBER})?\z"), min_count=0).as_py():
            return False
    return True
