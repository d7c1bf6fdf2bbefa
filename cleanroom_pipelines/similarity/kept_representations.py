"""Keeping the private representation of an earlier model, so that a refreshed base is scored with a paid vector.

Lives here: carrying a representation over to a new model, and what identifies it.
Add here when a representation outlives its model in a further way.
Keep out: learning one (private_representation), ranking with it (private_lookalikes).

A vector that was released for a seed means something in one representation only. A new model of a refreshed base
takes over what made the vectors of the old one, by the items' ids and the features' names: items that are new
count for nothing until a representation is learnt anew, which is when too many are.
"""

import hashlib
from pathlib import Path

import numpy as np

from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.model_digests import DIGESTS_FILE, write_digests
from cleanroom_pipelines.similarity.private_representation import PRIVATE_FILE, PrivateRepresentation

_LEAST_KNOWN = 0.7
_ORIGIN = "origin"


def representation_digest(model: Path | str) -> str:
    """What a vector of this model is of: 64 hex digits, the same where a representation was kept."""
    path = Path(model) / PRIVATE_FILE
    with np.load(path, allow_pickle=False) as arrays:
        if _ORIGIN in arrays:
            return str(arrays[_ORIGIN])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keep_representation(model: Path, before: Path) -> bool:
    """Give a new model the private representation of an earlier one, if most of what it knows is still there.

    Args:
        model: Folder of the new model, whole.
        before: Folder of the earlier one.

    Returns:
        Whether it was kept: at least 70 % of the users' items are known to the earlier model.

    Raises:
        ArtifactError: A model cannot be read.
    """
    new, old = Model(model), Model(before)
    known = set(old.item_ids())
    users, is_known = new.item_users(), np.array([item in known for item in new.item_ids()], dtype=bool)
    if users.sum() and users[is_known].sum() < _LEAST_KNOWN * users.sum():
        return False
    origin = representation_digest(before)
    if representation_digest(model) == origin:
        return True  # the same base: nothing is to be carried over
    PrivateRepresentation.load(before).carried_over(old, new).save(model)
    with np.load(model / PRIVATE_FILE, allow_pickle=False) as arrays:
        everything = {name: arrays[name] for name in arrays.files}
    np.savez(model / PRIVATE_FILE, **everything, origin=np.array(origin))
    (model / DIGESTS_FILE).unlink(missing_ok=True)
    write_digests(model)
    return True
