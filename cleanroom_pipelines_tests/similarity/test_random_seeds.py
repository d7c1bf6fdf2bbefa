"""Contract: a random seed has recall at chance, and its interval covers chance in at least 92 % (quality bar 3).

Both levels of the ensemble run, trees included; a model read back on the users it was fitted on fails this by far.
"""

import numpy as np
import pytest

from cleanroom_pipelines.engine import open_engine
from cleanroom_pipelines.similarity import GenerationSettings, metrics
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.ranking import fit_candidates
from cleanroom_pipelines.similarity.scoring import match_users
from cleanroom_pipelines.similarity.training import Stages, one_blas_thread
from cleanroom_pipelines_tests.similarity.planted import make_world, train_on

_SETTINGS = GenerationSettings(folds=3, boosting_rounds=3, threads=1)
_SHARES = (0.05, 0.1, 0.2)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Recall, whether the interval covers the share, and AUC of 200 random seeds of 25 to 150 users."""
    world = make_world(n_users=450, n_items=30)
    model = Model(train_on(world.interactions, tmp_path_factory.mktemp("model")))
    rng = np.random.default_rng(20)
    recalls, covers, areas = [], [], []
    ids = model.user_ids()
    with open_engine() as engine, one_blas_thread():
        for number in range(200):
            size = (25, 60, 150)[number % 3]
            seed = np.sort(rng.choice(model.n_users, size, replace=False))
            candidates = match_users(engine, model, ids.take(seed), _SETTINGS)
            held_out = fit_candidates(engine, model, candidates, _SETTINGS, Stages(None, None)).held_out
            values = [metrics.recall(held_out, int(share * model.n_users))[0] for share in _SHARES]
            bounds = [metrics.wilson_interval(value, size) for value in values]
            recalls.append(values)
            covers.append([low <= share <= high for share, (low, high) in zip(_SHARES, bounds, strict=True)])
            areas.append(metrics.auc(held_out))
    return {"recall": np.array(recalls), "covers": np.array(covers), "auc": np.array(areas)}


def test_recall_of_random_seeds_is_chance(found: dict[str, np.ndarray]) -> None:
    for column, share in enumerate(_SHARES):
        assert abs(found["recall"][:, column].mean() - share) < 0.01


def test_the_interval_covers_chance(found: dict[str, np.ndarray]) -> None:
    assert found["covers"].mean(axis=0).min() >= 0.92


def test_auc_of_random_seeds_is_a_half(found: dict[str, np.ndarray]) -> None:
    assert abs(found["auc"].mean() - 0.5) < 0.015
