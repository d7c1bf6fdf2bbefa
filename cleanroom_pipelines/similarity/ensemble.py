"""The cross-fitted ensemble: each user of the sample is scored by a model that was not fitted on that user.

Lives here: choosing the sample and the folds, the fits without one and without two folds, and the combiner.
Add here when the way the levels are fitted or combined changes.
Keep out: the signals themselves, metrics, files.

Both levels are out of fold. With K = 5 there are 1 + 5 + 10 fits of the signals: on all users, without each fold,
and without each pair of folds. The combiner of the full model learns from signals fitted without each user's fold.
The combiner of fold k learns from signals fitted without k and without each user's fold, so neither level of the
model that scores fold k has seen a user of that fold. Non-seed users are split into folds too: a negative that the
model was fitted on scores too low, so held-out seed users ranked among such negatives would look found even for a
random seed.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.similarity.model import Rows
from cleanroom_pipelines.similarity.representation import ItemRepresentation
from cleanroom_pipelines.similarity.signals import NAMES, FitSettings, Signals, fit_signals, multiply
from cleanroom_pipelines.similarity.specs import GenerationSettings

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_N_KNOTS = 129
# Prior weights of the combiner: the linear signals were best wherever seeds were small. Equal weights and prior
# strengths of 1 to 80 were up to 2 % worse on the mean of four data sets. Weights learnt from the
# publisher's other audiences gained nothing (PSEUDO_SEEDS.md).
_EXPECTED = {"linear": 0.5, "linear, by activity": 0.4, "linear, by strength": 0.6, "nearest to centroid": 0.1}
_EXPECTATION_STRENGTH = 20.0
_FURTHEST_BEYOND = 3.0
_DECLARED = NAMES.index("declared features")
# Log-likelihood that the declared features must add to get a weight.
_WORTH_DECLARED = 4.0
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Candidates:
    """Users of the model that the fits for a seed may use: the seed users, and a random sample of other users.

    Args:
        n_users: Users of the model N.
        seed: (m,) numbers of the matched seed users, ascending.
        seed_hashes: (m,) their stable hashes.
        seed_ids: (m,) their user ids.
        others: Numbers of other users, ascending: all, or the first by mixed hash.
        other_hashes: Their stable hashes.
    """

    n_users: int
    seed: Int64
    seed_hashes: Int64
    seed_ids: pa.Array
    others: Int64
    other_hashes: Int64


@dataclass(frozen=True)
class Population:
    """Users in the fits for one seed, with their folds, and reference users, among whom held-out users are ranked.

    Args:
        n_users: Users of the model N.
        n_folds: K.
        seed: (m,) numbers of the matched seed users, ascending.
        seed_fold: (m,) fold of each.
        others: Numbers of the other users in the fits, ascending.
        other_fold: Fold of each.
        sample: Numbers of all users in the fits, ascending.
        reference: Numbers of users in no fit, among whom held-out users are ranked, ascending.
    """

    n_users: int
    n_folds: int
    seed: Int64
    seed_fold: npt.NDArray[np.int8]
    others: Int64
    other_fold: npt.NDArray[np.int8]
    sample: Int64
    reference: Int64

    def sampled(self) -> tuple[npt.NDArray[np.int8], Bool]:
        """Return, for each user in the fits, the fold and whether the user is a seed user."""
        is_seed = np.isin(self.sample, self.seed, assume_unique=True)
        fold = np.empty(len(self.sample), dtype=np.int8)
        fold[is_seed] = self.seed_fold[np.searchsorted(self.seed, self.sample[is_seed])]
        fold[~is_seed] = self.other_fold
        return fold, is_seed

    def held_out(self) -> tuple[Int64, npt.NDArray[np.int8], Bool]:
        """Return the users for held-out scoring, by ascending number, with fold (-1: in no fit) and is_seed."""
        users = np.concatenate([self.seed, self.others, self.reference])
        none = np.full(len(self.reference), -1, dtype=np.int8)
        fold = np.concatenate([self.seed_fold, self.other_fold, none])
        is_seed = np.arange(len(users)) < len(self.seed)
        order = np.argsort(users)
        return users[order], fold[order], is_seed[order]


@dataclass(frozen=True)
class Scale:
    """Calibration of one signal: maps a value to the logit of its rank among users that no fit has seen.

    Args:
        values: Ascending distinct values of the signal.
        logits: Their logit-ranks.
    """

    values: Float64
    logits: Float64

    def apply(self, signal: Float64) -> Float64:
        """Map a signal's values to logits; extrapolate beyond the known values, to keep the top users in order."""
        if len(self.values) < 2:
            return np.zeros(len(signal))
        result = np.interp(signal, self.values, self.logits)
        for end, inner in ((0, 1), (-1, -2)):
            slope = (self.logits[end] - self.logits[inner]) / (self.values[end] - self.values[inner])
            beyond = (signal - self.values[end]) * slope
            outside = signal < self.values[0] if end == 0 else signal > self.values[-1]
            result[outside] += np.clip(beyond[outside], -_FURTHEST_BEYOND, _FURTHEST_BEYOND)
        return result


@dataclass(frozen=True)
class Scorer:
    """One fitted scorer of the ensemble: signals, and the weights that combine them.

    Args:
        signals: The first level.
        scales: One per signal.
        weights: (signals,) weights of the second level, at least 0.
    """

    signals: Signals
    scales: tuple[Scale, ...]
    weights: Float64

    def score(self, values: Float64) -> Float64:
        """Combine the (n, signals) values of n users into n scores; only the scores' order is meaningful."""
        total = np.zeros(len(values))
        for column, (scale, weight) in enumerate(zip(self.scales, self.weights, strict=True)):
            if weight > 0:
                total += weight * scale.apply(values[:, column])
        return total


@dataclass(frozen=True)
class Ensemble:
    """The scorers fitted for one seed.

    Args:
        full: Scorer fitted on the whole sample.
        folds: Per fold, a scorer fitted without it.
        signal_auc: (signals,) out-of-fold AUC of each signal on the sample.
    """

    full: Scorer
    folds: tuple[Scorer, ...]
    signal_auc: Float64


def mixed(hashes: Int64) -> npt.NDArray[np.uint64]:
    """Scramble the users' hashes, so that sorting by the result is unrelated to the order of the users."""
    state = hashes.astype(np.uint64) * _MIX
    return (state ^ (state >> np.uint64(32))) * _MIX


def arrange(candidates: Candidates, settings: GenerationSettings) -> Population:
    """Choose a seed's folds, sample and reference users by their hashes, so that the choice is reproducible."""
    seed, others = candidates.seed, candidates.others
    n_others = candidates.n_users - len(seed)
    n_folds = min(settings.folds, len(seed), n_others)
    seed_order = np.argsort(mixed(candidates.seed_hashes), kind="stable")
    seed_fold = np.empty(len(seed), dtype=np.int8)
    seed_fold[seed_order] = np.arange(len(seed)) % n_folds
    order = np.argsort(mixed(candidates.other_hashes), kind="stable")
    n_fitted = min(settings.max_fit_other_users, len(others))
    fitted, rest = order[:n_fitted], order[n_fitted:]
    by_number = np.argsort(fitted)
    other_fold = (np.arange(n_fitted) % n_folds).astype(np.int8)
    fit_seed = seed[seed_order[: settings.max_fit_seed_users]]
    return Population(
        n_users=candidates.n_users,
        n_folds=n_folds,
        seed=seed,
        seed_fold=seed_fold,
        others=others[fitted[by_number]],
        other_fold=other_fold[by_number],
        sample=np.sort(np.concatenate([fit_seed, others[fitted]])),
        reference=np.sort(others[rest[: settings.max_reference_users]]),
    )


def fit_ensemble(
    rows: Rows,
    population: Population,
    representation: ItemRepresentation,
    settings: GenerationSettings,
    on_fit: Callable[[float], None] | None = None,
    *,
    measured: bool = True,
) -> Ensemble:
    """Fit one scorer on the whole sample, and one for each fold on the sample without that fold.

    Args:
        rows: The users of the sample.
        population: Folds and sample.
        representation: The items' weights, embedding and neighbours.
        settings: Threads and rounds.
        on_fit: Called with the share of fits done, after each.
        measured: Whether held-out users will be scored. If false, the fold scorers are biased and only `full` may
            be used; its ranking is the same, with 6 fits instead of 16.
    """
    fold, is_seed = population.sampled()
    n_folds = int(fold.max()) + 1
    fit_settings = FitSettings(settings.boosting_rounds)
    left_out = [(), *((k,) for k in range(n_folds)), *combinations(range(n_folds), 2)]
    if n_folds < 3 or not measured:  # leaving out both of two folds would leave no users
        left_out = left_out[: n_folds + 1]
    done = 0

    def fit(folds: tuple[int, ...]) -> tuple[Signals, Float64]:
        kept = ~np.isin(fold, folds)
        fitted = fit_signals(take(rows, np.flatnonzero(kept)), is_seed[kept], representation, fit_settings)
        outside = np.flatnonzero(~kept) if folds else np.arange(len(fold))
        values = np.zeros((len(fold), len(NAMES)))
        values[outside] = fitted.evaluate(take(rows, outside))
        nonlocal done
        done += 1
        if on_fit:
            on_fit(done / len(left_out))
        return fitted, values

    with ThreadPoolExecutor(max_workers=max(1, settings.threads)) as pool:
        fits = dict(zip(left_out, pool.map(fit, left_out), strict=True))
    scorers = []
    for k in range(n_folds):
        logits = np.zeros((len(fold), len(NAMES)))
        for j in range(n_folds):
            pair = (min(j, k), max(j, k))
            if j != k and pair in fits:
                scales = _scales(fits[pair][1], np.isin(fold, pair) & ~is_seed)
                logits[fold == j] = _logits(scales, fits[pair][1][fold == j])
        inside = fold != k
        weights = _weights(logits[inside], is_seed[inside]) if n_folds > 2 and measured else _expected()
        held_out = fold == k
        scorer = Scorer(fits[k,][0], _scales(fits[k,][1], held_out & ~is_seed), weights)
        scorers.append(scorer)
    logits = np.zeros((len(fold), len(NAMES)))
    for k in range(n_folds):
        held_out = fold == k
        logits[held_out] = _logits(scorers[k].scales, fits[k,][1][held_out])
    full_values = fits[()][1]
    full = Scorer(fits[()][0], _scales(full_values, ~is_seed), _weights(logits, is_seed))
    return Ensemble(
        full=full,
        folds=tuple(scorers),
        signal_auc=np.array([_auc(logits[:, column], is_seed) for column in range(len(NAMES))]),
    )


def score_with(scorers: list[Scorer], rows: Rows) -> list[Float64]:
    """Score users with several scorers in one pass over the items."""
    products = multiply(rows, [scorer.signals for scorer in scorers])
    return [
        scorer.score(scorer.signals.evaluate(rows, product))
        for scorer, product in zip(scorers, products, strict=True)
    ]


def take(rows: Rows, positions: Int64) -> Rows:
    """Select rows by their positions."""
    return Rows(
        items=rows.items[positions],
        strong=rows.strong[positions],
        lengths=rows.lengths[positions],
        embedding_lengths=rows.embedding_lengths[positions],
        dense=rows.dense[positions],
        counts=rows.counts[positions],
        n_behaviour=rows.n_behaviour,
    )


def _scales(values: Float64, chosen: Bool) -> tuple[Scale, ...]:
    return tuple(_scale(values[chosen, column]) for column in range(values.shape[1]))


def _scale(reference: Float64) -> Scale:
    ordered = np.sort(reference)
    n = len(ordered)
    if n == 0 or ordered[0] == ordered[-1]:
        return Scale(np.zeros(0), np.zeros(0))
    reach = np.log(2.0 * n + 1.0)
    # Knots are evenly spaced in logits, so the tails, where audiences are cut, get as many as the middle.
    shares = 1.0 / (1.0 + np.exp(-np.linspace(-reach, reach, _N_KNOTS)))
    positions = np.unique(np.clip((shares * n).astype(np.int64), 0, n - 1))
    values = np.unique(ordered[positions])
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2.0
    share = (ranks + 0.5) / (n + 1.0)
    return Scale(values, np.log(share / (1.0 - share)))


def _logits(scales: tuple[Scale, ...], values: Float64) -> Float64:
    return np.column_stack([scale.apply(values[:, column]) for column, scale in enumerate(scales)])


def _weights(logits: Float64, is_seed: Bool) -> Float64:
    """Fit the signals' weights by logistic regression: never negative, and shrunk towards expected weights."""
    from scipy.optimize import minimize

    n_signals = logits.shape[1]
    expected = _expected()
    label = np.where(is_seed, 1.0, -1.0)
    share = float(is_seed.mean())

    def value(theta: Float64) -> tuple[float, Float64]:
        margin = label * (logits @ theta[:-1] + theta[-1])
        distance = theta[:-1] - expected
        residual = -label / (1.0 + np.exp(np.minimum(margin, 500.0)))
        gradient = np.append(logits.T @ residual + _EXPECTATION_STRENGTH * distance, residual.sum())
        loss = np.logaddexp(0.0, -margin).sum() + 0.5 * _EXPECTATION_STRENGTH * distance @ distance
        return float(loss), gradient

    start = np.append(expected, np.log(share / (1.0 - share)))
    bounds: list[tuple[float | None, float | None]] = [(0.0, None)] * n_signals + [(None, None)]
    found = minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds)
    if found.x[_DECLARED] > 0:
        bounds[_DECLARED] = (0.0, 0.0)
        without = minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds)
        if without.fun - found.fun < _WORTH_DECLARED:
            found = without
    weights = found.x[:-1]
    return weights if weights.sum() > 0 else expected


def _expected() -> Float64:
    return np.array([_EXPECTED.get(name, 0.0) for name in NAMES])


def _auc(scores: Float64, is_seed: Bool) -> float:
    ordered = np.sort(scores[~is_seed])
    seed = scores[is_seed]
    below = (np.searchsorted(ordered, seed, "left") + np.searchsorted(ordered, seed, "right")) / 2.0
    return float(below.mean() / max(1, len(ordered)))
