"""Privacy: the one way a number that depends on both sides leaves.

Lives here: noise, threshold and rounding of released counts, what a question costs, and when a list is repeated.
Add here when something else about both sides is published.
Keep out: counting, and keeping what was spent (`catalog`).
"""

from cleanroom_pipelines.privacy.deliveries import Delivery, decide_delivery, earlier_to_repeat
from cleanroom_pipelines.privacy.ledger import (
    BudgetSpentError,
    cost_of_rows,
    cost_of_table,
    question_key,
    spend,
)
from cleanroom_pipelines.privacy.policy import ReleasePolicy
from cleanroom_pipelines.privacy.release import (
    Reason,
    Released,
    Releaser,
    affinity_ratio,
    curve,
    rate,
    ratio,
)

__all__ = [
    "BudgetSpentError",
    "Delivery",
    "Reason",
    "ReleasePolicy",
    "Released",
    "Releaser",
    "affinity_ratio",
    "cost_of_rows",
    "cost_of_table",
    "curve",
    "decide_delivery",
    "earlier_to_repeat",
    "question_key",
    "rate",
    "ratio",
    "spend",
]
