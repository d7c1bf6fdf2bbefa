"""Placeholders: texts that software writes in place of a missing id.

Lives here: the one list of them, for every reader of ids.
Add here when a tool writes another text for a missing value.
Keep out: everything that depends on the kind of an id (`judging`).

If a placeholder were read as an id, all rows that lack an id would match each other: two tables with the hash of
an empty text would seem to share a customer for each such row.
"""

import hashlib
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_WORDS = ("null", "nan", "none", "n/a", "#n/a", "<na>", "\\n")
_ZERO_UUID = "00000000-0000-0000-0000-000000000000"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# In lower case: an id is a placeholder in any letter case.
PLACEHOLDERS: Final = frozenset(
    {
        *_WORDS,
        _ZERO_UUID,
        _ZERO_UUID.replace("-", ""),
        *(_hash(text) for text in ("", *_WORDS)),
    }
)
_MAX_BYTES = max(map(len, PLACEHOLDERS))


def are_placeholders(trimmed: pa.Array) -> npt.NDArray[np.bool_]:
    """Return, for each text, whether it is a placeholder; false for nulls."""
    # Few ids are as long as a placeholder, and looking all of them up takes three times as long.
    lengths = pc.fill_null(pc.binary_length(trimmed), 0).to_numpy()
    found: npt.NDArray[np.bool_] = _are_lengths()[np.minimum(lengths, _MAX_BYTES + 1)]
    if found.any():
        likely = trimmed.filter(pa.array(found))
        found[found] = np.asarray(pc.is_in(pc.ascii_lower(likely), _value_set()))
    return found


# Made on first use: making an Arrow array loads pandas, which the definitions must not.
@cache
def _value_set() -> pa.Array:
    return pa.array(sorted(PLACEHOLDERS))


@cache
def _are_lengths() -> npt.NDArray[np.bool_]:
    lengths = {len(text) for text in PLACEHOLDERS}
    return np.array([length in lengths for length in range(_MAX_BYTES + 2)])
