"""Policies: the resource policy of a configured audience model, kept as its owner wrote it.

Lives here: putting, reading and removing the text, guarded by its hash.
Add here when another kind of resource gets a policy.
Keep out: what a policy means; the way in evaluates it.
"""

import hashlib

from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.lifecycle import lock_resource
from cleanroom_pipelines.catalog.names import Kind
from cleanroom_pipelines.catalog.noting import noted
from cleanroom_pipelines.catalog.specs import is_storable
from cleanroom_pipelines.catalog.tables import ConfiguredAudienceModelRow
from cleanroom_pipelines.errors import UsageError

MAX_POLICY = 20_480


class Policies(Part):
    """The part of the catalogue that keeps policies."""

    @noted
    def put_policy(
        self,
        configured_id: str,
        account_id: str,
        policy_text: str,
        *,
        previous_hash: str | None = None,
        must_exist: bool | None = None,
        region: str | None = None,
    ) -> str:
        """Give a configured audience model a policy in the place of the one it has, if any.

        Args:
            configured_id: The configured audience model.
            account_id: Whose it must be.
            policy_text: 1 to 20,480 characters, kept as they are.
            previous_hash: Only if the policy there is has this hash.
            must_exist: Only if there is a policy (True), or only if there is none (False).
            region: Where it must be.

        Returns:
            SHA-256 hex of the text.

        Raises:
            UsageError: The text cannot be kept, or a condition does not hold; nothing was changed.
            NotFoundError: The account has no such configured audience model.
        """
        if not policy_text.strip() or len(policy_text) > MAX_POLICY or not is_storable(policy_text):
            raise UsageError("The policy cannot be used.", remedy=f"Give 1 to {MAX_POLICY:,} characters.")
        new_hash = hashlib.sha256(policy_text.encode()).hexdigest()
        with self._database.write() as session:
            row = _locked(session, configured_id, account_id, region)
            if must_exist is not None and must_exist is not (row.policy is not None):
                raise UsageError(
                    "The configured audience model has no policy."
                    if must_exist
                    else "The configured audience model has a policy already.",
                    remedy="Read the policy, or put it without this condition.",
                )
            if previous_hash is not None and previous_hash != row.policy_hash:
                raise UsageError(
                    "The policy is not the one of the hash that was given.",
                    remedy="Read the policy again and give its hash.",
                )
            row.policy, row.policy_hash = policy_text, new_hash
        return new_hash

    @noted
    def delete_policy(self, configured_id: str, account_id: str, region: str | None = None) -> bool:
        """Remove the policy of a configured audience model.

        Returns:
            Whether there was one.

        Raises:
            NotFoundError: The account has no such configured audience model.
        """
        with self._database.write() as session:
            row = _locked(session, configured_id, account_id, region)
            had_one = row.policy is not None
            row.policy = row.policy_hash = None
        return had_one


def _locked(
    session: Session, configured_id: str, account_id: str, region: str | None
) -> ConfiguredAudienceModelRow:
    row = lock_resource(session, Kind.CONFIGURED_AUDIENCE_MODEL, configured_id, account_id, region)
    assert isinstance(row, ConfiguredAudienceModelRow)
    return row
