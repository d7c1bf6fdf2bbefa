"""Prices of questions, in units of the privacy budget.

Lives here: the price of each kind of answer, and the noise that follows from it.
Add here when a new kind of question has a price.
Keep out: the privacy bound of a price (accounting), storing the ledger (`catalog`).
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from cleanroom_pipelines.privacy.accounting import TENTHS, Spent, variance_of

MOST_INTERESTS = 5
"""How many interests of one person a table counts at most; a keyed hash selects them."""

CELLS_OF_A_PERSON = 3 * MOST_INTERESTS + 3
"""How many cells of a table count one person.

Three for each interest (alone, by age and by gender), and three without it: age, gender, and age by gender.
"""


@dataclass(frozen=True)
class Price:
    """The price of an answer, which determines its noise.

    Args:
        tenths: Tenths of a unit, at least 1.
        sensitivity: Squared L2 length by which one person moves the answer's values.
    """

    tenths: int
    sensitivity: Fraction = Fraction(1)

    @cached_property
    def variance(self) -> Fraction:
        """The variance σ² of the noise of each value."""
        return variance_of(self.tenths, self.sensitivity)

    @property
    def spent(self) -> Spent:
        """The ledger entry for one answer."""
        return Spent(self.tenths, self.variance, self.sensitivity)


COUNT = Price(2 * TENTHS)
"""Price of a count: ± 23 users at 90 % confidence."""

INSIGHTS = Price(20 * TENTHS, Fraction(CELLS_OF_A_PERSON))
"""Price of a table of insights: ± 31 users per cell. The size of the overlap is paid for separately."""

BASE_COUNT = Price(1 * TENTHS)
"""Price of one count of the base audience alone: its addressable users, or its matchable users."""

BASE_TABLE = Price(8 * TENTHS, Fraction(CELLS_OF_A_PERSON))
"""Price of a table that counts the matchable users in each cell."""

BASE_TENTHS = 2 * BASE_COUNT.tenths + BASE_TABLE.tenths
"""Price of all figures about the base audience alone, charged when two organisations' data are first matched."""

HIDDEN_LOOKALIKE_TENTHS = 15 * TENTHS
"""Price of a lookalike in a room that hides sizes; it is fixed, because a price by size would reveal the size."""

MOST_LOOKALIKE_TENTHS = 60 * TENTHS
FIGURES_SENSITIVITY = Fraction(5, 4)
MOST_FIGURES_TENTHS = 10 * TENTHS
_RECALL_WITHIN, _CELLS_OF_RECALL, _AT_90 = 0.05, 4, 1.6449


def figures_price(n_seed_users: int) -> Price:
    """Return the price of a lookalike's quality figures: enough for recall at 10 % ± 5 points, at most 10 units.

    Args:
        n_seed_users: Released size of the source.
    """
    sigma = _RECALL_WITHIN * n_seed_users / (_AT_90 * math.sqrt(_CELLS_OF_RECALL))
    wanted = math.ceil(float(variance_of(1, FIGURES_SENSITIVITY)) / max(sigma, 1e-9) ** 2)
    return Price(max(1, min(wanted, MOST_FIGURES_TENTHS)), FIGURES_SENSITIVITY)


def in_units(tenths: int) -> int | float:
    """Convert tenths of a unit to units; the result is an int if it is whole."""
    return tenths // TENTHS if tenths % TENTHS == 0 else tenths / TENTHS
