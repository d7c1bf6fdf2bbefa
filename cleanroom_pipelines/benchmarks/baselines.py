"""Baselines: common methods of scoring users for a seed, all on the same (user, item, count) table.

Lives here: one function per method, which returns a score for each user, given a table and a seed.
Add here when another common method is missing.
Keep out: our own model.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass
class UserFeatures:
    """Input data of a baseline.

    Args:
        counts: (N, M) interactions per user and item, items with most users first.
        dense: (N, F) users' declared features, standardised.
        random_seed: Seed for methods that draw at random.
    """

    counts: sp.csr_matrix
    dense: npt.NDArray[np.float32]
    random_seed: int = 0

    @cached_property
    def tfidf(self) -> sp.csr_matrix:
        """One TF-IDF row per user: (1 + ln count) · idf, scaled to length 1."""
        from sklearn.feature_extraction.text import TfidfTransformer

        rows: sp.csr_matrix = TfidfTransformer(sublinear_tf=True).fit_transform(self.counts)
        return rows

    @cached_property
    def raw(self) -> npt.NDArray[np.float32]:
        """One row per user: activity, number of distinct items, and counts of the 100 most frequent items."""
        activity = np.asarray(self.counts.sum(axis=1)).ravel()
        return np.column_stack([activity, np.diff(self.counts.indptr), self.counts[:, :100].toarray()]).astype(
            np.float32
        )

    @cached_property
    def factors(self) -> npt.NDArray[np.float32]:
        """The users' ALS factors, scaled to length 1 (`implicit`, 64 factors, 15 iterations)."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(factors=64, iterations=15, random_state=self.random_seed, num_threads=2)
        model.fit(self.counts.astype(np.float32), show_progress=False)
        lengths = np.linalg.norm(model.user_factors, axis=1, keepdims=True)
        return np.asarray(model.user_factors / np.where(lengths > 0, lengths, 1.0))


Baseline = Callable[[UserFeatures, Int64], Float64]


def random(table: UserFeatures, seed: Int64) -> Float64:
    """Assign random scores."""
    rng = np.random.default_rng([table.random_seed, len(seed), int(seed[0])])
    return np.asarray(rng.random(table.counts.shape[0]))


def activity(table: UserFeatures, seed: Int64) -> Float64:
    """Score users by their number of interactions, regardless of the seed."""
    return np.asarray(table.counts.sum(axis=1), dtype=np.float64).ravel()


def als_centroid(table: UserFeatures, seed: Int64) -> Float64:
    """Score users by their cosine to the mean of the seed's ALS factors."""
    return np.asarray(table.factors @ table.factors[seed].mean(axis=0), dtype=np.float64)


def lightgbm_raw(table: UserFeatures, seed: Int64) -> Float64:
    """Score users by LightGBM with its defaults, on the raw counts in `table.raw`."""
    import lightgbm

    parameters = {"objective": "binary", "verbose": -1, "num_threads": 2, "seed": table.random_seed}
    data = lightgbm.Dataset(table.raw, label=_labels(table, seed))
    return np.asarray(lightgbm.train(parameters, data, 100).predict(table.raw))


def logistic_tfidf(table: UserFeatures, seed: Int64) -> Float64:
    """Score users by balanced logistic regression on TF-IDF rows, with scikit-learn's defaults."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(class_weight="balanced", max_iter=300)
    return np.asarray(model.fit(table.tfidf, _labels(table, seed)).decision_function(table.tfidf))


def nearest_neighbours(table: UserFeatures, seed: Int64) -> Float64:
    """Score users by the mean of their 10 largest TF-IDF cosines to seed users."""
    seed_rows = table.tfidf[seed].T.tocsc()
    best = np.zeros(table.counts.shape[0])
    k = min(10, len(seed))
    for start in range(0, len(best), 5_000):
        cosines = (table.tfidf[start : start + 5_000] @ seed_rows).toarray()
        best[start : start + 5_000] = np.partition(cosines, cosines.shape[1] - k, axis=1)[:, -k:].mean(axis=1)
    return best


BASELINES: Mapping[str, Baseline] = {
    "random": random,
    "activity": activity,
    "ALS centroid": als_centroid,
    "LightGBM raw": lightgbm_raw,
    "LR TF-IDF": logistic_tfidf,
    "kNN": nearest_neighbours,
}


def _labels(table: UserFeatures, seed: Int64) -> npt.NDArray[np.int8]:
    labels = np.zeros(table.counts.shape[0], dtype=np.int8)
    labels[seed] = 1
    return labels
