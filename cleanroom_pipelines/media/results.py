"""Results that Decentriq's Media API lacks: sizes with their noise, user lists, prices and budgets.

Lives here: one class per result, each with its noise and its JSON form.
Add here when a job gets a result that Decentriq's Media API lacks; results that both APIs have are in `api.py`.
Keep out: computation. A number that is None is hidden, or too small to publish.
"""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.media.api import Result


class SizeOfAudience(Result):
    """The size of an audience.

    Args:
        size: Released count of users; None if it is withheld.
        reason: Why it is withheld: `hidden` or `too_few`; None if it is published.
        noise: Error bounds of the number, as stated by the server.
    """

    size: int | None = None
    reason: str | None = None
    noise: Mapping[str, Any] = {}


class UserListFile(Result):
    """A file of a user list.

    Args:
        name: Its name.
        n_users: Number of users in it.
        n_bytes: Its size in bytes.
        sha256: SHA-256 of its content, in hex.
    """

    name: str
    n_users: int
    n_bytes: int
    sha256: str


class UserListDelivery(Result):
    """The files of an exported user list.

    Args:
        files: The files, in order.
        manifest: Fields of the export's `manifest.json`.
        reveals: What the list discloses by design: `REMARKETING`, `EXCLUSION`, `seed`, `ensemble`; may be empty.
    """

    files: tuple[UserListFile, ...]
    manifest: Mapping[str, Any] = {}
    reveals: tuple[str, ...] = ()


class PrivacyBudget(Result):
    """The privacy budget of the two organisations that provide a room's data.

    Args:
        spent: Units spent.
        total: Units in total.
        pair: The two organisations.
        period: `month` if the units are renewed every month, else None.
        bound: How often the best possible attacker is right, in words and figures.
        share: Largest number of units that the caller's organisation may spend; None for no limit.
        left: Units that the caller's organisation can still spend; None if the server does not report it.
    """

    spent: int | float
    total: int | float
    pair: tuple[str, ...] = ()
    period: str | None = None
    bound: Mapping[str, Any] = {}
    share: int | float | None = None
    left: int | float | None = None

    @property
    def remaining(self) -> float:
        """The units left for the caller's organisation; if that is unknown, the units left in the whole budget."""
        if self.left is not None:
            return self.left
        return max(0, round(self.total - self.spent, 1))


class PriceEstimate(Result):
    """The price of a query.

    Args:
        units: Its price in units.
        is_at_most: Whether the price is an upper bound, because the size that determines it has not been paid yet.
        left: Units remaining now.
        is_affordable: Whether the remaining units suffice.
    """

    units: int | float
    is_at_most: bool
    left: int | float
    is_affordable: bool


class BudgetProposal(Result):
    """A proposal that both of a room's data providers must approve.

    Args:
        id: Its id.
        kind: `refill`, `period`, `share` or `full_lookalike`.
        units: Units of a refill or a share.
        approved_by: Organisations that approved it.
        is_effective: Whether it is in force.
        bound: The current privacy bound.
        bound_then: The privacy bound with the proposal in force.
        organization: The organisation whose share it is.
    """

    id: str
    kind: str
    units: int | float
    approved_by: tuple[str, ...]
    is_effective: bool
    bound: Mapping[str, Any]
    bound_then: Mapping[str, Any]
    organization: str | None = None
