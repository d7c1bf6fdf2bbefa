"""Contract: the composed bound of a ledger equals what `dp-accounting` computes.

dp-accounting is installed from its own lock file into its own environment, because its pins conflict with ours.
"""

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import LedgerLine
from cleanroom_pipelines.privacy import COUNT, INSIGHTS, PAIR_TENTHS, Price, Spent
from cleanroom_pipelines.privacy.accounting import DELTA
from cleanroom_pipelines.privacy.prices import BASE_COUNT, BASE_TABLE, figures_price
from cleanroom_pipelines.runs.budgets import composed
from cleanroom_pipelines.similarity.private_lookalikes import sensitivity

from ..architecture.tree import ROOT

pytestmark = pytest.mark.slow

# Reads the draws of several ledgers and says of each what the best attacker reaches and ε; none of our code.
JUDGE = """
import json, sys
from dp_accounting.pld import privacy_loss_distribution as pld
DISCRETE = pld.from_discrete_gaussian_mechanism
def found(draws, delta):
    total = None
    for is_discrete, sigma, n in draws:
        make = DISCRETE if is_discrete else pld.from_gaussian_mechanism
        one = make(sigma, sensitivity=1, value_discretization_interval=2e-5).self_compose(n)
        total = one if total is None else total.compose(one)
    return (1 + total.get_delta_for_epsilon(0.0)) / 2, total.get_epsilon_for_delta(delta)
delta, ledgers = json.load(sys.stdin)
json.dump([found(draws, delta) for draws in ledgers], sys.stdout)
"""

VECTOR = Price(80, Fraction(math.ceil(sensitivity(48) ** 2)))
FIGURES = figures_price(5_000)
LEDGERS: dict[str, list[Spent]] = {
    "100 counts of 1 unit": [Price(10).spent] * 100,
    "the default count, 50 times": [COUNT.spent] * 50,
    "the smallest price, 1,000 times": [Price(1).spent] * 1_000,
    "one count for all": [Price(PAIR_TENTHS).spent],
    "five tables": [INSIGHTS.spent] * 5,
    "a lookalike and its figures": [VECTOR.spent, FIGURES.spent],
    "a year": [
        *[BASE_COUNT.spent] * 2,
        BASE_TABLE.spent,
        *[COUNT.spent] * 12,
        *[INSIGHTS.spent] * 2,
        *[VECTOR.spent] * 2,
        *[FIGURES.spent] * 2,
    ],
    "more than the bound": [INSIGHTS.spent] * 20,
}


def draws_of(spent: Iterable[Spent]) -> list[tuple[bool, float, int]]:
    """Return discrete draws that one person moves by 1 each, or a Gaussian of σ / Δ, with their number."""
    found: Counter[tuple[bool, float]] = Counter()
    for each in spent:
        if each.sensitivity in (1, 18):
            found[True, math.sqrt(each.variance)] += int(each.sensitivity)
        else:
            found[False, math.sqrt(each.variance / each.sensitivity)] += 1
    return [(*draw, n) for draw, n in found.items()]


def line_of(spent: Spent, number: int) -> LedgerLine:
    return LedgerLine(f"{number:064x}", "size", spent.tenths, str(spent.variance), str(spent.sensitivity))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with dp-accounting."""
    folder = tmp_path_factory.mktemp("judge")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--require-hashes", "-r", ROOT / "requirements-dp.lock"]
    subprocess.run(list(map(str, install)), check=True)
    return python


def test_composed_bounds_match_dp_accounting(judge: Path) -> None:
    asked = json.dumps([DELTA, [draws_of(spent) for spent in LEDGERS.values()]])
    run = subprocess.run(
        [str(judge), "-c", JUDGE], input=asked, capture_output=True, text=True, check=True, timeout=300
    )
    judged = dict(zip(LEDGERS, json.loads(run.stdout), strict=True))
    assert judged["100 counts of 1 unit"][0] <= 0.601, "the bound itself"
    for name, spent in LEDGERS.items():
        success, epsilon = judged[name]
        told = composed([line_of(each, number) for number, each in enumerate(spent)])
        # The judge rounds each draw's loss up by half a step on average; ours stays below it by no more than that.
        n_draws = sum(n for _, _, n in draws_of(spent))
        assert -1e-4 <= success - told["right_at_most"] <= 2e-4 + 3e-6 * n_draws, name
        assert -1e-3 <= epsilon - told["epsilon"] <= 2e-3 + 2e-5 * n_draws, name
        assert told["units"] == pytest.approx(sum(each.tenths for each in spent) / 10)
        assert told["rho"] == pytest.approx(float(sum(each.rho for each in spent)))
