"""Store the fit for one seed, so that this or another process can score and rank all users.

Lives here: `Fit`, and its files.
Add here when ranking needs further data from the fit.
Keep out: fitting (ensemble), scoring (scoring), ranking (ranking).

A stored fit reveals the seed users and, like a ranking, is for the operator only. It consists of JSON, numpy
arrays and LightGBM's text; never pickle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.similarity.ensemble import Scale, Scorer
from cleanroom_pipelines.similarity.metrics import HeldOut
from cleanroom_pipelines.similarity.signals import NAMES, Signals

FIT_FILE, ARRAYS_FILE, TREES_FILE = "fit.json", "arrays.npz", "trees.txt"
_HELD_OUT = ("fold", "percentile", "above", "tied")
_SIGNALS = ("item_weights", "strong_weights", "dense_weights")


@dataclass(frozen=True)
class Fit:
    """The result of matching a seed, fitting the ensemble and measuring its quality.

    Args:
        n_users: Users of the model N.
        seed: (m,) numbers of the matched seed users, ascending.
        seed_hashes: (m,) their stable hashes.
        seed_ids: (m,) their user ids.
        scorer: Scorer for all users.
        held_out: Ranks of the seed users by models that never saw them.
        explanation: The content of explanation.json.
        match: Counts of the seed's rows and ids, for metrics.json.
        timing_seconds: Seconds per stage so far.
    """

    n_users: int
    seed: npt.NDArray[np.int64]
    seed_hashes: npt.NDArray[np.int64]
    seed_ids: pa.Array
    scorer: Scorer
    held_out: HeldOut
    explanation: Mapping[str, Any]
    match: Mapping[str, Any]
    timing_seconds: Mapping[str, float]


def save_fit(fit: Fit, folder: Path) -> None:
    """Write a fit into an existing folder."""
    signals = fit.scorer.signals
    arrays: dict[str, npt.NDArray[Any]] = {
        "seed": fit.seed,
        "seed_hashes": fit.seed_hashes,
        "weights": fit.scorer.weights,
        **{f"held_out_{name}": getattr(fit.held_out, name) for name in _HELD_OUT},
        **{f"signals_{name}": getattr(signals, name) for name in _SIGNALS},
    }
    for number, scale in enumerate(fit.scorer.scales):
        arrays |= {f"scale_{number}_values": scale.values, f"scale_{number}_logits": scale.logits}
    np.savez(folder / ARRAYS_FILE, allow_pickle=False, **arrays)
    (folder / TREES_FILE).write_text(signals.trees, "utf-8")
    described = {
        "n_users": fit.n_users,
        "n_scales": len(fit.scorer.scales),
        "seed_ids": fit.seed_ids.to_pylist(),
        "explanation": fit.explanation,
        "match": fit.match,
        "timing_seconds": fit.timing_seconds,
    }
    (folder / FIT_FILE).write_text(json.dumps(described, ensure_ascii=False), "utf-8")


def load_fit(folder: Path) -> Fit:
    """Read a fit that `save_fit` wrote.

    Raises:
        ArtifactError: The fit cannot be read.
    """
    try:
        described = json.loads((folder / FIT_FILE).read_text("utf-8"))
        trees = (folder / TREES_FILE).read_text("utf-8")
        if described["n_scales"] != len(NAMES):
            raise ValueError("The fit was written by a version with other signals.")
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
            scales = tuple(
                Scale(arrays[f"scale_{number}_values"], arrays[f"scale_{number}_logits"])
                for number in range(described["n_scales"])
            )
            signals = Signals(trees=trees, **{name: arrays[f"signals_{name}"] for name in _SIGNALS})
            return Fit(
                n_users=described["n_users"],
                seed=arrays["seed"],
                seed_hashes=arrays["seed_hashes"],
                seed_ids=pa.array(described["seed_ids"], pa.string()),
                scorer=Scorer(signals, scales, arrays["weights"]),
                held_out=HeldOut(*(arrays[f"held_out_{name}"] for name in _HELD_OUT)),
                explanation=described["explanation"],
                match=described["match"],
                timing_seconds=described["timing_seconds"],
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = type(error).__name__
    raise ArtifactError(f"The fit of the seed cannot be read ({cause}).", remedy="Start the ranking again.")
