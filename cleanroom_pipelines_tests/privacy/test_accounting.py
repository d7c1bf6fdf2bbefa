"""Contract: the noise that prices buy, and the privacy bound of all answers together."""

import json
import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.privacy import COUNT, INSIGHTS, PAIR_TENTHS, Price, Spent, bound_as_dict
from cleanroom_pipelines.privacy.accounting import (
    DELTA,
    RHO_OF_TENTH,
    TENTHS,
    attacker_success,
    composed_epsilon,
    epsilon_of,
    rho_of,
    right_at_most,
    variance_of,
)
from cleanroom_pipelines.privacy.noise import noise_within
from cleanroom_pipelines.privacy.prices import BASE_TENTHS, FIGURES_SENSITIVITY, MOST_FIGURES_TENTHS, figures_price

from ..examples import one_in

UNIT = TENTHS


def within(price: Price) -> int:
    return noise_within(price.variance, 0.9)


def test_prices_buy_the_promised_noise() -> None:
    assert {units: within(Price(units * UNIT)) for units in (1, 2, 8)} == {1: 33, 2: 23, 8: 11}
    assert (COUNT, within(COUNT)) == (Price(2 * UNIT), 23)
    assert (INSIGHTS.tenths, INSIGHTS.sensitivity, within(INSIGHTS)) == (20 * UNIT, 18, 31)
    assert math.sqrt(Price(UNIT).variance) == pytest.approx(19.8, abs=0.05)
    assert math.sqrt(INSIGHTS.variance) == pytest.approx(18.8, abs=0.051)
    assert BASE_TENTHS == 10 * UNIT


def test_the_bound_is_the_promised_one() -> None:
    assert PAIR_TENTHS == 100 * UNIT
    assert rho_of(PAIR_TENTHS) == 0.128
    assert math.sqrt(2 * rho_of(PAIR_TENTHS)) == pytest.approx(0.506, abs=5e-4)
    assert right_at_most(PAIR_TENTHS) == pytest.approx(0.60, abs=5e-4)
    assert epsilon_of(PAIR_TENTHS) == pytest.approx(2.28, abs=5e-3)
    told = bound_as_dict(PAIR_TENTHS)
    figures = {name: told[name] for name in ("right_at_most", "rho", "mu", "epsilon", "delta")}
    assert figures == {"right_at_most": 0.6, "rho": 0.128, "mu": 0.506, "epsilon": 2.28, "delta": 1e-6}
    assert "60%" in told["statement"]
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("pairs", "share"),
    # an advertiser under 2, 5 and 10 organisations, a refill of 300 units, twelve months
    [(2, 0.64), (5, 0.71), (10, 0.79), (4, 0.69), (12, 0.81)],
)
def test_larger_budgets_have_the_stated_bounds(pairs: int, share: float) -> None:
    assert round(right_at_most(pairs * PAIR_TENTHS), 2) == share


def test_gaussian_privacy_is_exact_for_one_gaussian() -> None:
    # δ(ε) of a shift of a Gaussian, integrated numerically: no formula of the product's is used.
    for tenths in (100, PAIR_TENTHS, 12 * PAIR_TENTHS):
        mu = math.sqrt(2 * tenths * float(RHO_OF_TENTH))
        x = np.linspace(-15, 15 + mu, 400_001)
        here, there = (np.exp(-((x - at) ** 2) / 2) / math.sqrt(2 * math.pi) for at in (mu, 0.0))
        step = x[1] - x[0]
        assert np.maximum(here, there).sum() * step / 2 == pytest.approx(right_at_most(tenths), abs=1e-6)
        delta = np.maximum(here - math.exp(epsilon_of(tenths)) * there, 0).sum() * step
        assert delta == pytest.approx(DELTA, rel=1e-2)
    assert (right_at_most(0), epsilon_of(0)) == (0.5, 0.0)


def exact_success(price: Price, n: int) -> float:
    """Return how often the best attacker is right given n counts, from the distribution of their sum."""
    variance = float(price.variance)
    reach = math.ceil(10 * math.sqrt(variance * n)) + n
    one = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * variance))
    spectrum = np.fft.rfft(np.roll(np.pad(one / one.sum(), (0, 2 * reach)), -reach)) ** n
    total = np.maximum(np.fft.irfft(spectrum, 4 * reach + 1), 0)
    return float(np.maximum(total, np.roll(total, n)).sum() / 2)


@pytest.mark.parametrize(("tenths", "n"), [(10, 100), (20, 50), (1, 1_000), (1_000, 1), (80, 12)])
def test_composed_counts_match_exact_enumeration(tenths: int, n: int) -> None:
    price = Price(tenths)
    found = attacker_success([price.spent] * n)
    assert found == pytest.approx(exact_success(price, n), abs=2e-6)
    assert found >= exact_success(price, n) - 1e-9, "from above"
    if tenths * n == PAIR_TENTHS:
        assert found <= 0.601
        assert composed_epsilon([price.spent] * n) <= 2.2975


def test_all_kinds_of_answers_compose() -> None:
    vector = Price(8 * UNIT, Fraction(67_322))  # 48 coordinates on a grid of 256
    spent = [
        *[COUNT.spent] * 10,
        *[INSIGHTS.spent] * 2,
        vector.spent,
        Price(10 * UNIT, FIGURES_SENSITIVITY).spent,
        Price(22 * UNIT).spent,
    ]
    assert sum(each.tenths for each in spent) == PAIR_TENTHS
    assert sum(each.rho for each in spent) == Fraction(128, 1000)
    assert attacker_success(spent) == pytest.approx(0.60, abs=1e-3)
    assert composed_epsilon(spent) == pytest.approx(2.285, abs=0.01)
    assert attacker_success(spent[:1]) < attacker_success(spent[:13]) < attacker_success(spent)
    assert attacker_success([vector.spent]) == pytest.approx(right_at_most(8 * UNIT), abs=1e-5)


def test_overflowing_sums_do_not_look_small() -> None:
    assert attacker_success([Price(PAIR_TENTHS).spent] * 40) == pytest.approx(right_at_most(40_000), abs=2e-3)
    assert attacker_success([]) == 0.5
    assert composed_epsilon([]) == 0.0


@one_in(5)
@given(st.integers(1, 2_000), st.integers(1, 200))
def test_a_price_equals_the_privacy_loss_of_its_noise(tenths: int, sensitivity: int) -> None:
    price = Price(tenths, Fraction(sensitivity))
    assert price.variance == variance_of(tenths, sensitivity)
    assert price.spent == Spent(tenths, price.variance, Fraction(sensitivity))
    assert price.spent.rho == tenths * RHO_OF_TENTH
    # twice the price, half the variance; a vector that moves further has more noise
    assert variance_of(2 * tenths) * 2 == variance_of(tenths) == variance_of(tenths, sensitivity) / sensitivity


def test_quality_figures_have_the_promised_accuracy() -> None:
    for n in (300, 1_000, 5_000, 50_000):
        price = figures_price(n)
        # four of the noised counts enter a recall
        error = NormalDist().inv_cdf(0.95) * math.sqrt(4 * price.variance) / n
        assert price.sensitivity == Fraction(5, 4)
        assert error <= 0.0501 or price.tenths == MOST_FIGURES_TENTHS
        assert price.tenths == 1 or error > 0.04 or price.tenths == MOST_FIGURES_TENTHS
    assert figures_price(0).tenths == MOST_FIGURES_TENTHS == 10 * UNIT
