"""The key of a question, and the error when the budget of a pair is spent.

Lives here: pure functions of the privacy budget.
Add here when paying for questions has a further rule.
Keep out: prices (prices), keeping what was spent (`catalog`); asked again, a question is a stored answer and free.
"""

import hashlib
import json

from cleanroom_pipelines.errors import CleanroomError, StatusCode
from cleanroom_pipelines.privacy.prices import in_units


class BudgetSpentError(CleanroomError, RuntimeError):
    """A pair of organisations has too little left of its privacy budget; nothing was answered and nothing spent.

    Attributes in `attributes`: `total`, `spent` and `cost`, in units.
    """

    @property
    def total(self) -> float:
        """Units that the pair may spend."""
        return float(self.attributes["total"])

    @property
    def spent(self) -> float:
        """Units already spent."""
        return float(self.attributes["spent"])

    @property
    def cost(self) -> float:
        """Units that the question would have cost."""
        return float(self.attributes["cost"])


def question_key(content: str, canonical_question: str, tenths: int) -> str:
    """What a pair pays for once: 64 hex digits, the same for every phrasing with one canonical text.

    Args:
        content: Keyed digest of the data that the answer reads.
        canonical_question: Text of the question (`audiences.canonical`), or of several asked together.
        tenths: Its price; the same question at another price has other noise, and is paid anew.
    """
    return hashlib.sha256(json.dumps([content, canonical_question, tenths]).encode()).hexdigest()


def budget_spent(*, total: int, spent: int, cost: int) -> BudgetSpentError:
    """The error for a question that cannot be paid.

    Args:
        total: Tenths of a unit that the pair may spend.
        spent: Tenths already spent.
        cost: Tenths that the question costs.
    """
    left = in_units(max(0, total - spent))
    return _spent(
        f"This costs {in_units(cost)} units of the privacy budget; {left} of {in_units(total)} are left.",
        "Ask again what was answered before, which is free, or let both providers approve a refill.",
        total=total,
        spent=spent,
        cost=cost,
    )


def share_spent(*, share: int, spent: int, cost: int) -> BudgetSpentError:
    """The error for a question that is beyond the share of the organisation that asks.

    Args:
        share: Tenths of a unit that the organisation may spend.
        spent: Tenths that it spent.
        cost: Tenths that the question costs.
    """
    left = in_units(max(0, share - spent))
    return _spent(
        f"This costs {in_units(cost)} units of the privacy budget; {left} of your organisation's share of "
        f"{in_units(share)} are left.",
        "Ask again what was answered before, which is free, or let both providers approve a larger share.",
        total=share,
        spent=spent,
        cost=cost,
    )


def _spent(message: str, remedy: str, *, total: int, spent: int, cost: int) -> BudgetSpentError:
    return BudgetSpentError(
        message,
        remedy=remedy,
        status_code=StatusCode.PRIVACY_BUDGET_SPENT,
        total=in_units(total),
        spent=in_units(spent),
        cost=in_units(cost),
    )
