"""Explain an audience without revealing individual users.

Lives here: over-represented items and feature values with their lift, and the contribution of each signal.
Add here when the explanation of a ranking gets another part.
Keep out: items and values of fewer than 25 seed users, and differences explained by chance.

Each item and value is tested (hypergeometric, one-sided) at 1 % divided by the number of tests (Bonferroni), so a
random seed has an empty explanation in 99 of 100 cases.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cleanroom_pipelines.similarity.ensemble import Ensemble
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.scoring import SeedCounts
from cleanroom_pipelines.similarity.signals import NAMES

Int64 = npt.NDArray[np.int64]

_SIGNIFICANCE = 0.01
_MOST_SHOWN = 20


def explain(model: Model, ensemble: Ensemble, counts: SeedCounts, n_seed: int, min_users: int) -> dict[str, Any]:
    """Return the content of explanation.json: what distinguishes the seed, and each signal's contribution.

    Args:
        model: The audience model.
        ensemble: The ensemble fitted for the seed.
        counts: Items and categories of the seed users.
        n_seed: Matched seed users.
        min_users: Items and values of fewer seed users (25) are not shown.
    """
    n_users = model.n_users
    described = model.features
    values = [number for number, feature in enumerate(described) if feature["value"] is not None]
    n_tests = model.n_items + len(values)
    items = _apart(model.item_users(), counts.items, n_users, n_seed, min_users=min_users, n_tests=n_tests)
    carriers = np.array([described[number]["n_carriers"] for number in values], dtype=np.int64)
    features = _apart(carriers, counts.carriers[values], n_users, n_seed, min_users=min_users, n_tests=n_tests)
    shown = model.shown_items([entry.pop("number") for entry in items])
    return {
        "items": [{**item, **entry} for item, entry in zip(shown, items, strict=True)],
        "features": [
            {
                "name": (feature := described[values[entry.pop("number")]])["name"],
                "column": feature["column"],
                "value": feature["value"],
                **entry,
            }
            for entry in features
        ],
        "signals": _signals(ensemble),
        "min_seed_users": min_users,
        "n_tests": n_tests,
        "significance": _SIGNIFICANCE,
    }


def _apart(
    in_all: Int64, in_seed: Int64, n_users: int, n_seed: int, *, min_users: int, n_tests: int
) -> list[dict[str, Any]]:
    from scipy.stats import hypergeom

    candidates = np.flatnonzero((in_seed >= min_users) & (in_seed * n_users > in_all * n_seed))
    if len(candidates) == 0:
        return []
    chance = hypergeom.sf(in_seed[candidates] - 1, n_users, in_all[candidates], n_seed)
    kept = candidates[chance < _SIGNIFICANCE / n_tests]
    lift = (in_seed[kept] / n_seed) / (in_all[kept] / n_users)
    # Rank by lift relative to its uncertainty: a lift of 5 from 25 users ranks below 4 from 250.
    order = np.lexsort((kept, -np.log(lift) * np.sqrt(in_seed[kept])))[:_MOST_SHOWN]
    return [
        {
            "number": int(kept[position]),
            "lift": float(lift[position]),
            "n_seed_users": int(in_seed[kept[position]]),
            "share_of_seed": float(in_seed[kept[position]] / n_seed),
            "share_of_users": float(in_all[kept[position]] / n_users),
        }
        for position in order
    ]


def _signals(ensemble: Ensemble) -> list[dict[str, Any]]:
    spread = np.array(
        [
            weight * (scale.logits.std() if len(scale.logits) > 1 else 0.0)
            for weight, scale in zip(ensemble.full.weights, ensemble.full.scales, strict=True)
        ]
    )
    total = float(spread.sum()) or 1.0
    return [
        {"signal": name, "gain": float(gain / total), "held_out_auc": float(value)}
        for name, gain, value in zip(NAMES, spread, ensemble.signal_auc, strict=True)
    ]
