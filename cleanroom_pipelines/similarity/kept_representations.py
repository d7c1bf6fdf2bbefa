"""Reuse an earlier model's private representation, so that ranking refreshed data costs no more privacy budget.

Lives here: transferring a representation to a new model, and its identity.
Add here when representations can outlive their models in another way.
Keep out: learning a representation (private_representation), ranking with it (private_lookalikes).

A vector released for a seed is valid in one representation only. A new model of a refreshed base therefore takes
over the representation of the old model, matching items by id and features by name. New items have weight 0 until
a representation is learnt again, which happens when too many items are new.
"""

import hashlib
from pathlib import Path

import numpy as np

from cleanroom_pipelines.similarity.model import DIGESTS_FILE, Model, write_digests
from cleanroom_pipelines.similarity.private_representation import PRIVATE_FILE, PrivateRepresentation

_LEAST_KNOWN = 0.7
_ORIGIN = "origin"


def representation_digest(model: Path | str) -> str:
    """Return the digest (64 hex digits) of a model's representation; a reused representation keeps its digest."""
    path = Path(model) / PRIVATE_FILE
    with np.load(path, allow_pickle=False) as arrays:
        if _ORIGIN in arrays:
            return str(arrays[_ORIGIN])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keep_representation(model: Path, before: Path) -> bool:
    """Copy the private representation of an earlier model to a new one, if the earlier model knows most items.

    Args:
        model: Folder of the new, complete model.
        before: Folder of the earlier model.

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
        return True  # the same base: nothing to transfer
    PrivateRepresentation.load(before).carried_over(old, new).save(model)
    with np.load(model / PRIVATE_FILE, allow_pickle=False) as arrays:
        everything = {name: arrays[name] for name in arrays.files}
    np.savez(model / PRIVATE_FILE, **everything, origin=np.array(origin))
    (model / DIGESTS_FILE).unlink(missing_ok=True)
    write_digests(model)
    return True
