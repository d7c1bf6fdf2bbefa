"""Policies: the resource policy of a configured audience model, stored verbatim.

Lives here: storing, reading and removing the text; a caller may require that its hash is unchanged.
Add here when another kind of resource gets a policy.
Keep out: evaluating policies, which the AWS API layer does.
"""

import hashlib

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.lifecycle import lock_resource
from cleanroom_pipelines.catalog.noting import noted
from cleanroom_pipelines.catalog.specs import is_storable
from cleanroom_pipelines.catalog.tables import ConfiguredAudienceModelRow
from cleanroom_pipelines.errors import UsageError

MAX_POLICY = 20_480


class Policies(Part):
    """The part of the catalogue that stores the resource policies of configured audience models."""

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
        """Set or replace the policy of a configured audience model.

        Args:
            configured_id: The configured audience model.
            account_id: The required owner.
            policy_text: 1 to 20,480 characters, stored verbatim.
            previous_hash: The required hash of the current policy, if given.
            must_exist: Whether a policy must (True) or must not (False) exist; None for either.
            region: The required region.

        Returns:
            SHA-256 hex of the text.

        Raises:
            UsageError: The text is invalid, or a condition does not hold; nothing was changed.
            NotFoundError: The account has no such configured audience model.
        """
        if not policy_text.strip() or len(policy_text) > MAX_POLICY or not is_storable(policy_text):
            raise UsageError("The policy is invalid.", remedy=f"Give 1 to {MAX_POLICY:,} characters.")
        new_hash = hashlib.sha256(policy_text.encode()).hexdigest()
        with self._database.write() as session:
            row = lock_resource(session, ConfiguredAudienceModelRow, configured_id, account_id, region)
            if must_exist is not None and must_exist is not (row.policy is not None):
                raise UsageError(
                    "The configured audience model has no policy."
                    if must_exist
                    else "The configured audience model already has a policy.",
                    remedy="Read the policy again, or omit the condition on its existence.",
                )
            if previous_hash is not None and previous_hash != row.policy_hash:
                raise UsageError(
                    "The current policy does not have the given hash.",
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
            row = lock_resource(session, ConfiguredAudienceModelRow, configured_id, account_id, region)
            had_one = row.policy is not None
            row.policy = row.policy_hash = None
        return had_one
