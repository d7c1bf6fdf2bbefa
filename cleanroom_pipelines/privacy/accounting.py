"""Privacy accounting: how much all answers about two organisations' data can reveal, computed from their prices.

Lives here: the unit; ρ, μ and ε of the budget spent; and the success rate of the best attacker.
Add here when the bound is stated as another figure.
Keep out: drawing noise (noise), prices of questions (prices), storing the ledger (`catalog`).

A unit is ρ = 0.00128 of zero-concentrated differential privacy; 100 units are ρ = 0.128. Every mechanism is
Gaussian, so releases compose by adding their ρ and reveal as much as one Gaussian of μ = √(2ρ) (Dong, Roth and Su
2022, corollary 3.3): an attacker who knows everything except whether one person is in the data, and who would be
right in 50 % of cases by guessing, is right in at most Φ(μ/2) of cases. The noise takes whole numbers only, which
reveals slightly more; `attacker_success` therefore composes the privacy-loss distributions of the discrete
Gaussians themselves (Koskela, Jälkö and Honkela 2020).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np

TENTHS = 10
"""Tenths in a unit; prices and budgets are stored as whole tenths."""

PAIR_TENTHS = 100 * TENTHS
"""The privacy budget of a pair of organisations, in tenths of a unit."""

RHO_OF_TENTH = Fraction(128, 1_000_000)
DELTA = 1e-6
_GRID = 1e-4
_MOST_DRAWS = 1_000


@dataclass(frozen=True)
class Spent:
    """The cost of one answer, as recorded in the ledger.

    Args:
        tenths: Its price in tenths of a unit.
        variance: σ² of its noise, in the released values' own unit.
        sensitivity: Squared L2 length by which one person moves the values, in the same unit.
    """

    tenths: int
    variance: Fraction
    sensitivity: Fraction

    @property
    def rho(self) -> Fraction:
        """The privacy loss ρ of the answer: Δ² / 2σ²."""
        return self.sensitivity / (2 * self.variance)


def variance_of(tenths: int, sensitivity: Fraction | int = 1) -> Fraction:
    """Return the noise variance σ² of an answer with this price.

    Args:
        tenths: Price in tenths of a unit, at least 1.
        sensitivity: Squared L2 length by which one person moves the released values: k for a person in k cells.
    """
    return Fraction(sensitivity) / (2 * tenths * RHO_OF_TENTH)


def rho_of(tenths: int) -> float:
    """Return the total privacy loss ρ for a sum of prices."""
    return float(tenths * RHO_OF_TENTH)


def right_at_most(tenths: int) -> float:
    """Return the highest success rate of any attacker for a total price (0.5 is guessing), by Gaussian DP."""
    return NormalDist().cdf(math.sqrt(2 * rho_of(tenths)) / 2) if tenths else 0.5


def epsilon_of(tenths: int) -> float:
    """Return ε of (ε, δ) differential privacy for a total price, by Gaussian differential privacy."""
    mu = math.sqrt(2 * rho_of(tenths))
    if not mu:
        return 0.0
    normal = NormalDist()

    def delta_at(epsilon: float) -> float:
        return normal.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * normal.cdf(-mu / 2 - epsilon / mu)

    return _smallest(delta_at)


def bound_as_dict(tenths: int) -> dict[str, Any]:
    """Return the privacy bound of a budget in words and figures, as JSON values.

    Args:
        tenths: The budget, in tenths of a unit.
    """
    share = right_at_most(tenths)
    return {
        "right_at_most": round(share, 3),
        "rho": round(rho_of(tenths), 6),
        "mu": round(math.sqrt(2 * rho_of(tenths)), 3),
        "epsilon": round(epsilon_of(tenths), 2),
        "delta": DELTA,
        "statement": (
            "Suppose an attacker knows everything else, and uses all answers about the two organisations' data "
            "to guess whether one person is in the data. The guess is right in at most "
            f"{share:.0%} of cases; a coin flip achieves 50%."
        ),
    }


def attacker_success(spent: Iterable[Spent]) -> float:
    """Return the highest success rate of any attacker, computed exactly for discrete Gaussian noise.

    Args:
        spent: All releases. A release whose sensitivity is a whole number of cells counts as that many draws of
            sensitivity 1; every other release, such as a vector on a fine grid, counts as one Gaussian.

    Returns:
        An upper bound of (1 + total variation) / 2: each loss is split between its neighbours on a grid of 0.0001
        (Doroshenko, Ghazi, Kamath, Kumar and Manurangsi 2022, "Connect the Dots").
    """
    return (1 + _Losses.of(spent).delta(0.0)) / 2


def composed_epsilon(spent: Iterable[Spent]) -> float:
    """Return ε of (ε, δ) differential privacy for all answers, computed exactly for discrete Gaussian noise."""
    return _smallest(_Losses.of(spent).delta)


def _smallest(delta_at: Any) -> float:
    low, high = 0.0, 1.0
    if delta_at(low) <= DELTA:
        return low
    while delta_at(high) > DELTA:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > DELTA else (low, middle)
    return high


@dataclass(frozen=True)
class _Losses:
    """Probability distribution of the privacy loss, over a grid of values."""

    probabilities: np.ndarray[Any, np.dtype[np.float64]]

    @classmethod
    def of(cls, spent: Iterable[Spent]) -> "_Losses":
        spent = tuple(spent)
        rho = float(sum((each.rho for each in spent), start=Fraction(0)))
        # Losses have mean ρ and deviation √(2ρ): values beyond this range change no digit of the result.
        reach = rho + 14 * math.sqrt(2 * rho) + 1
        size = 1 << math.ceil(math.log2(2 * reach / _GRID))
        product = np.ones(size // 2 + 1, dtype=np.complex128)
        powers: dict[tuple[Fraction, bool], int] = {}
        for each in spent:
            # At a sensitivity of thousands of steps the noise is so wide that it equals a Gaussian to all digits.
            whole = each.sensitivity.denominator == 1 and each.sensitivity <= _MOST_DRAWS
            key = (each.variance, True) if whole else (each.variance / each.sensitivity, False)
            powers[key] = powers.get(key, 0) + (int(each.sensitivity) if whole else 1)
        for (variance, is_discrete), power in powers.items():
            product *= np.fft.rfft(_one(float(variance), is_discrete, size)) ** power
        return cls(np.maximum(np.fft.irfft(product, size), 0.0))

    def delta(self, epsilon: float) -> float:
        size = len(self.probabilities)
        places = np.arange(size)
        losses = np.where(places < size // 2, places, places - size) * _GRID
        above = losses > epsilon
        return float((-np.expm1(epsilon - losses[above]) * self.probabilities[above]).sum())


def _one(variance: float, is_discrete: bool, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the loss distribution of one draw of discrete or continuous Gaussian noise, for Δ = 1."""
    sigma = math.sqrt(variance)
    if is_discrete:
        values = np.arange(-math.ceil(12 * sigma) - 2, math.ceil(12 * sigma) + 3, dtype=np.float64)
        weights = np.exp(-(values**2) / (2 * variance))
    else:
        values = np.linspace(-12 * sigma, 12 * sigma, 40_001)
        weights = np.exp(-(values**2) / (2 * variance))
    losses = (1 - 2 * values) / (2 * variance)
    below = np.floor(losses / _GRID)
    # The split preserves the probability of the loss both with and without the person.
    above = np.expm1(below * _GRID - losses) / np.expm1(-_GRID)
    probabilities = weights / weights.sum()
    places = below.astype(np.int64)
    return np.asarray(
        np.bincount(places % size, probabilities * (1 - above), minlength=size)
        + np.bincount((places + 1) % size, probabilities * above, minlength=size),
        dtype=np.float64,
    )
