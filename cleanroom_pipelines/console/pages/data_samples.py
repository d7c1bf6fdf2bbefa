"""Sample files: a small table for each dataset and kind of id.

Lives here: the rows of the samples.
Add here when a room accepts another dataset or kind of id.
Keep out: the page that sends them (`data.py`).
"""

import hashlib

from cleanroom_pipelines.identity import Dataset, InputName
from cleanroom_pipelines.terms import MatchingId

Rows = list[tuple[object, ...]]
_EMAILS = ("ada@example.com", "grace@example.com", "alan@example.com")
_PHONES = ("+12025550123", "+442079460018", "+493012345678")
_USERS = ("user-1", "user-2", "user-3")
_IDS = {
    MatchingId.STRING: ("id", ("customer-1", "customer-2", "customer-3")),
    MatchingId.EMAIL: ("email", _EMAILS),
    MatchingId.HASHED_EMAIL: (
        "hashed_email",
        tuple(hashlib.sha256(each.encode()).hexdigest() for each in _EMAILS),
    ),
    MatchingId.PHONE_NUMBER: ("phone", _PHONES),
    MatchingId.HASHED_PHONE_NUMBER: (
        "hashed_phone",
        tuple(hashlib.sha256(each.encode()).hexdigest() for each in _PHONES),
    ),
}
_OTHERS: dict[Dataset, Rows] = {
    Dataset.SEGMENTS: [("user_id", "segment"), ("user-1", "cycling"), ("user-1", "travel"), ("user-2", "cooking")],
    Dataset.DEMOGRAPHICS: [
        ("user_id", "age", "gender"),
        ("user-1", "18-24", "f"),
        ("user-2", "25-34", "m"),
        ("user-3", "65+", ""),
    ],
    Dataset.EMBEDDINGS: [
        ("user_id", "scope", "e0", "e1", "e2"),
        ("user-1", "site", 0.12, -0.5, 0.33),
        ("user-2", "site", 0.02, 0.41, -0.7),
    ],
}


def sample_rows(name: InputName) -> Rows:
    """Return the rows of a sample file; the first row has the column names."""
    if name.matching_id is None:
        return _OTHERS[name.dataset]
    column, ids = _IDS[name.matching_id]
    if name.dataset is Dataset.SEED_AUDIENCES:
        return [(column, "audience_type"), *((each, "customers") for each in ids)]
    return [("user_id", column), *zip(_USERS, ids, strict=True)]
