"""When a list that was asked for is an earlier list again.

Lives here: the rule that keeps two lists from differing by few users, which would show whether those match.
Add here when deliveries are held back for another reason.
Keep out: comparing lists, and keeping what was delivered (`catalog`).
"""

from collections.abc import Mapping
from enum import StrEnum

from cleanroom_pipelines.privacy.policy import ReleasePolicy

_POLICY = ReleasePolicy()


class Delivery(StrEnum):
    """What is delivered."""

    REPEAT = "repeat earlier"
    NEW = "new"


def decide_delivery(n_differing: int, policy: ReleasePolicy = _POLICY) -> Delivery:
    """Decide between a new list and an earlier one of the same group.

    Args:
        n_differing: Users that are in one of the two and not in the other.
        policy: The room's policy.

    Returns:
        REPEAT for 1 to 24 users; NEW from 25, and for 0: an equal list tells nothing either way.
    """
    return Delivery.REPEAT if 0 < n_differing < policy.least_difference else Delivery.NEW


def earlier_to_repeat(n_differing: Mapping[str, int], policy: ReleasePolicy = _POLICY) -> str | None:
    """Choose among all lists delivered to a group before.

    Args:
        n_differing: By each earlier list, in order of delivery, the users that are in one of the two and not in
            the other.
        policy: The room's policy.

    Returns:
        The nearest of those too near, the first delivered among equals; None if the list is new, or if one just
        like it was delivered before.
    """
    if 0 in n_differing.values():
        return None
    too_near = [n for n in n_differing.values() if decide_delivery(n, policy) is Delivery.REPEAT]
    return next((name for name, n in n_differing.items() if too_near and n == min(too_near)), None)
