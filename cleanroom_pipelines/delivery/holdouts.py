"""Control groups: users of an audience who are held out of every delivery, to measure a campaign's effect.

Lives here: the rule that holds users out; it needs no list and selects the same users at every refresh.
Add here when a control group is selected in another way.
Keep out: writing the lists (delivery.writing).

A user is held out when `stable_hash` of the audience's salt and the user id is below the share. The salt belongs
to the audience: each refresh holds out the same users, the groups of two audiences are independent of each other,
and a larger share holds out a superset of a smaller one. It is derived from a key, so that without
the key no one can determine who is held out, or construct such ids. Sampling and sharding hash the bare id, so
they are independent of it.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

from cleanroom_pipelines.engine import STABLE_HASH_BITS, stable_hash_sql
from cleanroom_pipelines.errors import UsageError

_PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")


@dataclass(frozen=True)
class Holdout:
    """The control group of one audience.

    Args:
        share: Share of the users who are held out, above 0 and at most one half.
        salt: Makes the group specific to this audience; see `holdout_salt`.

    Raises:
        UsageError: The share is out of range, or there is no salt.
    """

    share: Fraction
    salt: str = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.share <= Fraction(1, 2):
            raise UsageError("A holdout must be above 0 % and at most 50 %.", remedy="Give a share such as 10%.")
        if not self.salt:
            raise UsageError("A holdout needs the salt of its audience.", remedy="Derive it with holdout_salt.")

    @classmethod
    def parse(cls, text: str, salt: str) -> Self:
        """Parse a share, such as `10%` or `2.5%`.

        Raises:
            UsageError: It cannot be read, or is out of range.
        """
        written = _PERCENTAGE.fullmatch(text.strip())
        if written is None:
            raise UsageError("The share of a holdout is invalid.", remedy="Give a share such as 10%.")
        return cls(Fraction(written.group(1)) / 100, salt)

    @property
    def percentage(self) -> str:
        """The share as text, such as `10%`."""
        return f"{float(self.share * 100):g}%"

    def condition(self, expression: str) -> tuple[str, list[str | int]]:
        """Return the SQL condition that is true for users in the control group.

        Args:
            expression: A VARCHAR expression that gives the user id.

        Returns:
            A condition with two parameters, and the parameters.
        """
        return f"({stable_hash_sql(f'(? || {expression})')} < ?)", [self._prefix, self._threshold]

    @property
    def _prefix(self) -> str:
        return f"holdout:{self.salt}:"

    @property
    def _threshold(self) -> int:
        return int(self.share * (1 << STABLE_HASH_BITS))


def holdout_salt(key: bytes, audience: str) -> str:
    """Return the salt of an audience's control group: HMAC-SHA256 hex of its id, the same at every refresh.

    Args:
        key: A secret of the installation or room, as `InstallationKey.derive("holdouts")` gives; may be empty
            where the exporting user sees everything, as with the bare commands.
        audience: The audience's id, which a refresh does not change; not its version.
    """
    return hmac.new(key, audience.encode(), hashlib.sha256).hexdigest()
