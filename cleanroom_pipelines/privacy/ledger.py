"""Ledger keys of questions, and the errors for questions that the remaining privacy budget cannot pay for.

Lives here: functions about the privacy budget that read and store nothing.
Add here when paying for questions gets another rule.
Keep out: prices (prices) and storing the ledger (`catalog`). A repeated question reads a stored answer for free.
"""

import hashlib
import json

from cleanroom_pipelines.errors import CleanroomError, StatusCode
from cleanroom_pipelines.privacy.prices import in_units


class BudgetSpentError(CleanroomError, RuntimeError):
    """The two organisations have too little privacy budget left; nothing was answered and nothing was spent.

    Attributes in `attributes`: `total`, `spent` and `cost`, in units.
    """

    @property
    def total(self) -> float:
        """The budget of the two organisations, or one organisation's share of it, in units."""
        return float(self.attributes["total"])

    @property
    def spent(self) -> float:
        """Units already spent."""
        return float(self.attributes["spent"])

    @property
    def cost(self) -> float:
        """The question's cost, in units."""
        return float(self.attributes["cost"])


def question_key(content: str, canonical_question: str, tenths: int) -> str:
    """Return a question's key in the ledger (64 hex digits); a pair of organisations pays once per key.

    Args:
        content: Keyed digest of the data behind the answer.
        canonical_question: Text of the question (`audiences.canonical`), or of several questions asked together.
        tenths: Its price. At another price the question gets other noise, so it is paid again.
    """
    return hashlib.sha256(json.dumps([content, canonical_question, tenths]).encode()).hexdigest()


def budget_spent(*, total: int, spent: int, cost: int) -> BudgetSpentError:
    """Return the error for a question that costs more than the pair's remaining budget.

    Args:
        total: The pair's budget, in tenths of a unit.
        spent: Tenths already spent.
        cost: Tenths that the question costs.
    """
    left = in_units(max(0, total - spent))
    return _spent(
        f"The answer costs {in_units(cost)} units of the privacy budget; {left} of {in_units(total)} are left.",
        "Repeat an earlier question, which is free, or ask both providers to approve a refill.",
        total=total,
        spent=spent,
        cost=cost,
    )


def share_spent(*, share: int, spent: int, cost: int) -> BudgetSpentError:
    """Return the error for a question that costs more than is left of the requesting organisation's share.

    Args:
        share: The organisation's share, in tenths of a unit.
        spent: Tenths that it spent.
        cost: Tenths that the question costs.
    """
    left = in_units(max(0, share - spent))
    return _spent(
        f"The answer costs {in_units(cost)} units of the privacy budget; {left} of your organisation's share of "
        f"{in_units(share)} are left.",
        "Repeat an earlier question, which is free, or ask both providers to approve a larger share.",
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
