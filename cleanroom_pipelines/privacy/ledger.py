"""What questions cost, and whether there is enough left for one.

Lives here: pure arithmetic of the privacy budget, the key of a question, and the error when the budget is spent.
Add here when a new kind of question has a price.
Keep out: keeping what was spent (`catalog`); asked again, a question is a stored answer and free.
"""

import hashlib
import json
from typing import Any

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.privacy.policy import ReleasePolicy

_POLICY = ReleasePolicy()


class BudgetSpentError(CleanroomError, RuntimeError):
    """A participant has too little left of the privacy budget of a room; nothing was answered and nothing spent.

    Attributes in `attributes`: `total`, `spent` and `cost`, in units.
    """

    @property
    def total(self) -> int:
        """Units that the participant was given."""
        return int(self.attributes["total"])

    @property
    def spent(self) -> int:
        """Units already spent."""
        return int(self.attributes["spent"])

    @property
    def cost(self) -> int:
        """Units that the question would have cost."""
        return int(self.attributes["cost"])


def cost_of_rows(n_rows: int) -> int:
    """What sizes or rows of the overlap cost: one unit each, whatever is in them; nothing for none."""
    return max(0, n_rows)


def cost_of_table(n_cells_of_a_user: int, policy: ReleasePolicy = _POLICY) -> int:
    """What a table costs.

    Args:
        n_cells_of_a_user: How many of its cells one user can enter, by the table's form and not by its data.
        policy: The room's policy.

    Returns:
        As many units, but at least 1 and at most `most_units_of_a_table`.
    """
    return min(max(1, n_cells_of_a_user), policy.most_units_of_a_table)


def question_key(data_version: str, canonical_question: str) -> str:
    """What a participant pays for once: 64 hex digits, the same for every phrasing with one canonical text.

    Args:
        data_version: The state of the room's data.
        canonical_question: Text of the question (`audiences.canonical`), or of several asked together.
    """
    return hashlib.sha256(json.dumps([data_version, canonical_question]).encode()).hexdigest()


def spend(*, total: int, spent: int, cost: int) -> int:
    """Pay for a question that was not asked before.

    Args:
        total: Units that the participant was given, refills included.
        spent: Units already spent.
        cost: Units that the question costs.

    Returns:
        What is spent then.

    Raises:
        BudgetSpentError: Too little is left.
    """
    if spent + cost > total:
        raise budget_spent(total=total, spent=spent, cost=cost)
    return spent + cost


def budget_spent(*, total: int, spent: int, cost: int) -> BudgetSpentError:
    """The error for a question that cannot be paid; for callers whose ledger says no by itself."""
    numbers: dict[str, Any] = {"total": total, "spent": spent, "cost": cost}
    return BudgetSpentError(
        f"This question costs {cost} units of the privacy budget; {max(0, total - spent)} of {total} are left.",
        remedy="Ask again what was answered before, which is free, or let the owner of the data room refill it.",
        **numbers,
    )
