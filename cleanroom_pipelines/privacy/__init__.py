"""Privacy: the only way to publish a number computed from the data of two organisations.

Lives here: noise, threshold and rounding of released counts, prices, and the privacy bound of all answers.
Add here when another number about both organisations' data is published.
Keep out: counting, and storing the ledger (`catalog`).
"""

from cleanroom_pipelines.privacy.accounting import PAIR_TENTHS, Spent, bound_as_dict
from cleanroom_pipelines.privacy.ledger import BudgetSpentError, budget_spent, question_key, share_spent
from cleanroom_pipelines.privacy.policy import ReleasePolicy
from cleanroom_pipelines.privacy.prices import COUNT, INSIGHTS, Price, in_units
from cleanroom_pipelines.privacy.release import (
    Reason,
    Released,
    Releaser,
    affinity_ratio,
    curve,
    error_of,
    rate,
    ratio,
    released,
)
