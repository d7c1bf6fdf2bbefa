"""Keeping the private representation of an earlier model, so that a refreshed base is scored with a paid vector.

Lives here: carrying a representation over to a new model, and what identifies it.
Add here when a representation outlives its model in a further way.
Keep out: learning one (private_representation), ranking with it (private_lookalikes).

A vector that was released for a seed means something in one representation only. A new model of a refreshed base
takes over what made the vectors of the old one, by the items' ids and the features' names: items that are new
count for nothing until a representation is learnt anew, which is when too many are.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        Whether it was kept: at least 70 % of the users' items, and all features, are known to the earlier model.

    Raises:
        ArtifactError: A model cannot be read.
    """
    new, old = Model(model), Model(before)
    representation = PrivateRepresentation.load(before)
    places = {item: number for number, item in enumerate(old.item_ids())}
    found = np.array([places.get(item, -1) for item in new.item_ids()], dtype=np.int64)
    users = new.item_users()
    if users.sum() and users[found >= 0].sum() < _LEAST_KNOWN * users.sum():
        return False
    features = {_name_of(feature): number for number, feature in enumerate(old.features)}
    of_features = np.array([features.get(_name_of(feature), -1) for feature in new.features], dtype=np.int64)
    if (of_features < 0).any():
        return False
    item_map = np.zeros((len(found), representation.item_map.shape[1]), dtype=np.float32)
    item_map[found >= 0] = representation.item_map[found[found >= 0]]
    origin = representation_digest(before)
    kept = PrivateRepresentation(
        item_map,
        representation.dense_map[of_features],
        representation.mean,
        representation.lengths,
        representation.grams,
        representation.n_users,
    )
    kept.save(model)
    with np.load(model / PRIVATE_FILE, allow_pickle=False) as arrays:
        everything = {name: arrays[name] for name in arrays.files}
    np.savez(model / PRIVATE_FILE, **everything, origin=np.array(origin))
    (model / DIGESTS_FILE).unlink(missing_ok=True)
    write_digests(model)
    return True


def _name_of(feature: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(feature.get(key) for key in ("group", "name", "column", "value"))
