"""Identity: the identifiers by which two parties match the same person.

Lives here: the kinds of matching ids, their normal form, validity and hashing; a data room's datasets.
Add here when a kind of matching id is added.
Keep out: reading files (`uploads`) and using matched ids.

Throughput from text to room digest, on one core of a busy 2-core machine, in a batch of 500,000 different ids, in
millions per minute: 29 to 47 for phone numbers (clean, written with spaces and `(0)`, or of all countries; the
library alone parses 0.4), 44 for e-mail addresses (13 beyond ASCII), 65 for hashes, 53 for strings.
"""

from cleanroom_pipelines.identity.datasets import BASE_DATASETS, Dataset, InputName, inputs_of
from cleanroom_pipelines.identity.digests import room_digests, sha256_hex
from cleanroom_pipelines.identity.judging import IdProblem, JudgedIds, judge_ids
from cleanroom_pipelines.identity.placeholders import PLACEHOLDERS
