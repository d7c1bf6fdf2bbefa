"""Identity: the identifiers by which two parties find that they know the same person.

Lives here: the kinds of matching ids, their normal form, validity and hashing.
Add here when a kind of matching id is added.
Keep out: reading files (`validation`) and what matched ids are used for.

Measured on one core of a 2-core machine, in batches of 500,000 different ids: NUMBERS
"""

from cleanroom_pipelines.identity.digests import room_digests, sha256_hex
from cleanroom_pipelines.identity.judging import IdProblem, JudgedIds, judge_ids
from cleanroom_pipelines.identity.kinds import Family, MatchingId

__all__ = [
    "Family",
    "IdProblem",
    "JudgedIds",
    "MatchingId",
    "judge_ids",
    "room_digests",
    "sha256_hex",
]
