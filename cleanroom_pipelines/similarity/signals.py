"""Signals: several measures of a user's similarity to the seed, all fitted on the same sample of users.

Lives here: fitting a set of signals on a sample of users, and evaluating it on any users.
Add here when another signal is shown to help (on unseen data, on average, at its cost).
Keep out: choosing the users of a fit and combining signals (ensemble), reading (model).

Every signal except the trees is a weighted sum of a user's items, scaled by a number per user (length of the
profile or of the embedding), plus a weighted sum of the user's dense features. Scoring a population is therefore
one sparse product with a few columns per fit; embeddings are never materialised, and a million users take a
second.

Experiments, recall at 10 % on hidden items, four data sets: L2 logistic regression on idf rows, the embedding and
activity is the best single signal where users have many items (+2 to +6 % over scikit-learn's on TF-IDF). LightGBM
with seven leaves on the most frequent items is 17 % better where they have few, and far worse elsewhere; with 31
leaves it is worse everywhere. Nearest neighbours and kernel densities in the embedding were never best. Weighting
unlabelled users by their probability of being hidden members of the group (PU learning) changed nothing. A second,
less cautious fit of that regression took a third of the cost of a seed and added nothing; nor did the items'
log-odds and activity alone. Three ridges, EASE and a random walk together gained 1 % on items for a quarter more
time per fit (PSEUDO_SEEDS.md).

Declared features (from the users table and the interactions' columns) are a separate signal and an input of the
trees. Inside the linear signals, the first design, they cost 0.014 ± 0.005 of recall on hidden items: for sixty
seed users thirty columns are noise that L2 alone does not suppress. As a signal with free weight they still cost
0.010 ± 0.004. Now that they need a minimum log-likelihood gain (ensemble) the cost is 0.003 ± 0.003, and the gain
on hidden attributes is unchanged (40 and 23 tasks of the demo's data).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from cleanroom_pipelines.similarity.model import Rows
from cleanroom_pipelines.similarity.representation import ItemRepresentation

Float64 = npt.NDArray[np.float64]

NAMES = (
    "linear",
    "linear, by activity",
    "linear, by strength",
    "nearest to centroid",
    "smoothed centroid",
    "declared features",
    "trees",
)
"""The signals in the order of their columns."""

_EMBEDDING_SCALE = 0.5
_DENSE_SCALE = 0.2
_STRENGTH = 0.1
_PARTIAL_POWER = 0.3
_MAX_ITERATIONS = 60
# Ten times tighter costs a third more time and moved no user across a cut at 10 %.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class FitSettings:
    """Settings for fitting the signals.

    Args:
        boosting_rounds: Number of trees; with 0 the signal is 0 for all users.
    """

    boosting_rounds: int


@dataclass(frozen=True)
class Signals:
    """The signals' weights, as fitted on one sample of users.

    Args:
        item_weights: (M, c) one column per sum of items.
        strong_weights: (M, 1) weights of the rows by strength.
        dense_weights: (F, s) weights of the dense features per signal, except the trees.
        trees: LightGBM's model text, empty without trees.
    """

    item_weights: npt.NDArray[np.float32]
    strong_weights: npt.NDArray[np.float32]
    dense_weights: Float64
    trees: str

    def evaluate(self, rows: Rows, products: tuple[Float64, Float64] | None = None) -> Float64:
        """Compute the (n, signals) values of any users; only the order within a column is meaningful.

        Args:
            rows: The users.
            products: Their items times both weights, if already computed by `multiply`.
        """
        product, strong = multiply(rows, [self])[0] if products is None else products
        inverse = _inverse(rows.embedding_lengths)
        columns = [
            product[:, 0] + inverse * product[:, 1],
            product[:, 2] * rows.lengths**_PARTIAL_POWER,
            strong[:, 0],
            product[:, 3],
            product[:, 4],
            np.zeros(len(inverse)),
            self._trees(rows),
        ]
        values = np.column_stack(columns)
        values[:, :-1] += rows.dense.astype(np.float64) @ self.dense_weights
        return values

    def _trees(self, rows: Rows) -> Float64:
        if not self.trees:
            return np.zeros(rows.items.shape[0])
        import lightgbm

        booster = lightgbm.Booster(model_str=self.trees)
        return np.asarray(booster.predict(_tree_features(rows), raw_score=True, num_threads=1))


def fit_signals(
    rows: Rows, is_seed: npt.NDArray[np.bool_], representation: ItemRepresentation, settings: FitSettings
) -> Signals:
    """Fit all signals on some users, given which of them are seed users.

    Args:
        rows: The users of the fit.
        is_seed: (n,) which of them are seed users; needs at least one seed and one other user.
        representation: The items' weights, embedding and neighbours.
        settings: Settings of the fit.
    """
    items, basis = rows.items, representation.basis
    n_items, n_dense = items.shape[1], rows.dense.shape[1]
    inverse = _inverse(rows.embedding_lengths)
    partial = rows.lengths**_PARTIAL_POWER
    mean_partial = float(partial.mean()) or 1.0
    weights = np.zeros((n_items, 5))
    dense = np.zeros((n_dense, len(NAMES) - 1))
    n_seed = int(is_seed.sum())
    behaviour = rows.dense[:, : rows.n_behaviour]
    fit = _logistic(items, is_seed, _STRENGTH, behaviour, basis=basis, inverse=inverse)
    weights[:, 0] = fit.items
    weights[:, 1] = _EMBEDDING_SCALE * (basis.astype(np.float64) @ fit.embedding)
    dense[: rows.n_behaviour, 0] = fit.dense
    fit = _logistic(items, is_seed, 1.0, behaviour, row_scale=partial / mean_partial)
    weights[:, 2] = fit.items / mean_partial
    dense[: rows.n_behaviour, 1] = fit.dense
    # Without dense features; with them this signal repeats the first one and adds less to the ensemble.
    by_strength = _logistic(rows.strong, is_seed, 1.0, rows.dense[:, :0])
    centroid = items.T @ (is_seed / n_seed) - items.T @ np.full(len(is_seed), 1.0 / len(is_seed))
    weights[:, 3] = centroid
    if representation.neighbours.shape[1]:
        weights[:, 4] = (representation.similarities * centroid[representation.neighbours]).sum(axis=1)
    if n_dense > rows.n_behaviour:
        dense[:, NAMES.index("declared features")] = _logistic(items[:, :0], is_seed, 1.0, rows.dense).dense
    return Signals(
        weights.astype(np.float32),
        by_strength.items.astype(np.float32)[:, None],
        dense,
        _fit_trees(rows, is_seed, settings.boosting_rounds),
    )


def multiply(rows: Rows, fits: list[Signals]) -> list[tuple[Float64, Float64]]:
    """Multiply the users' items by the item weights of several fits, in one pass over the items."""
    product = np.asarray(rows.items @ np.hstack([fit.item_weights for fit in fits]), dtype=np.float64)
    strong = np.asarray(rows.strong @ np.hstack([fit.strong_weights for fit in fits]), dtype=np.float64)
    return list(zip(np.split(product, len(fits), axis=1), np.split(strong, len(fits), axis=1), strict=True))


@dataclass(frozen=True)
class _Logistic:
    items: Float64
    embedding: Float64
    dense: Float64


def _logistic(
    items: sp.csr_matrix,
    is_seed: npt.NDArray[np.bool_],
    strength: float,
    dense: npt.NDArray[np.float32],
    *,
    basis: npt.NDArray[np.float32] | None = None,
    inverse: Float64 | None = None,
    row_scale: Float64 | None = None,
) -> _Logistic:
    """Fit a balanced L2 logistic regression on items, dense features and the embedding.

    Minimises ½|w|² + strength · Σ weight · log(1 + exp(-y·z)) by L-BFGS; never materialises the embedding.
    """
    from scipy.optimize import minimize

    n, n_items = items.shape
    n_embedding = 0 if basis is None else basis.shape[1]
    n_seed = int(is_seed.sum())
    label = np.where(is_seed, 1.0, -1.0)
    weight = np.where(is_seed, n / (2.0 * n_seed), n / (2.0 * (n - n_seed))) * strength
    matrix = items.astype(np.float64)
    features = _DENSE_SCALE * dense.astype(np.float64)
    wide = None if basis is None else basis.astype(np.float64)
    cut_items, cut_embedding = n_items, n_items + n_embedding

    def value(theta: Float64) -> tuple[float, Float64]:
        z = matrix @ theta[:cut_items]
        if row_scale is not None:
            z *= row_scale
        if wide is not None and inverse is not None:
            z += _EMBEDDING_SCALE * inverse * (matrix @ (wide @ theta[cut_items:cut_embedding]))
        z += features @ theta[cut_embedding:-1] + theta[-1]
        margin = label * z
        # One exponential serves the loss and its gradient; numpy's logaddexp takes four times as long.
        tail = np.exp(-np.abs(margin))
        loss = float(weight @ (np.maximum(-margin, 0.0) + np.log1p(tail))) + 0.5 * float(theta[:-1] @ theta[:-1])
        residual = -weight * label * np.where(margin > 0, tail, 1.0) / (1.0 + tail)
        gradient = np.empty_like(theta)
        gradient[:cut_items] = matrix.T @ (residual if row_scale is None else residual * row_scale)
        if wide is not None and inverse is not None:
            gradient[cut_items:cut_embedding] = _EMBEDDING_SCALE * (wide.T @ (matrix.T @ (inverse * residual)))
        gradient[cut_embedding:-1] = features.T @ residual
        gradient[:-1] += theta[:-1]
        gradient[-1] = residual.sum()
        return loss, gradient

    found = minimize(
        value,
        np.zeros(cut_embedding + dense.shape[1] + 1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MAX_ITERATIONS, "ftol": _TOLERANCE},
    ).x
    return _Logistic(found[:cut_items], found[cut_items:cut_embedding], _DENSE_SCALE * found[cut_embedding:-1])


def _fit_trees(rows: Rows, is_seed: npt.NDArray[np.bool_], n_rounds: int) -> str:
    if n_rounds < 1:
        return ""
    import lightgbm

    parameters = {
        "objective": "binary",
        "num_leaves": 7,
        "learning_rate": 0.05,
        "lambda_l2": 10.0,
        "min_data_in_leaf": 20,
        "feature_fraction": 0.5,
        "max_bin": 63,
        "seed": 1,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbose": -1,
    }
    data = lightgbm.Dataset(_tree_features(rows), label=is_seed.astype(np.float32))
    return str(lightgbm.train(parameters, data, num_boost_round=n_rounds).model_to_string())


def _tree_features(rows: Rows) -> npt.NDArray[np.float32]:
    return np.hstack([rows.dense, rows.counts])


def _inverse(lengths: npt.NDArray[np.float32]) -> Float64:
    wide = lengths.astype(np.float64)
    return np.where(wide > 0, 1.0 / np.where(wide > 0, wide, 1.0), 0.0)
