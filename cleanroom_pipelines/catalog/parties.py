"""Parties: accounts and their access keys, collaborations, analysis templates, buckets and resource policies.

Lives here: creating, finding and listing them, and the rules that need the database. The policy of a configured
audience model is stored verbatim.
Add here when an account can own something new, or another kind of resource gets a policy.
Keep out: secrets (callers pass them sealed), evaluating policies and accessing buckets.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import ClashError, Part, noted
from cleanroom_pipelines.catalog.lifecycle import lock_resource
from cleanroom_pipelines.catalog.names import (
    LOCAL_ACCOUNT,
    LOCAL_REGION,
    check_access_key_id,
    check_account,
    check_bucket_name,
    check_bucket_url,
    check_label,
    check_name,
    check_template_region,
    check_text,
    is_account_id,
    make_template_arn,
    make_uuid,
)
from cleanroom_pipelines.catalog.pairs import make_monthly
from cleanroom_pipelines.catalog.records import (
    AccessKey,
    Account,
    AccountBucket,
    AnalysisTemplate,
    Collaboration,
    Member,
)
from cleanroom_pipelines.catalog.specs import check_query_text, is_storable
from cleanroom_pipelines.catalog.tables import (
    AccessKeyRow,
    AccountRow,
    AnalysisTemplateRow,
    BucketRow,
    CollaborationRow,
    ConfiguredAudienceModelRow,
    MemberRow,
    record_of,
    stored,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError

MAX_MEMBERS = 10


class Parties(Part):
    """The part of the catalogue that stores accounts, keys, collaborations, templates, buckets and policies.

    The operator's own account, LOCAL_ACCOUNT, works without being created. Create it only to give it access keys,
    which make resources created by `apply` available through the AWS API.
    """

    @noted
    def create_account(self, name: str, account_id: str | None = None, organization: str | None = None) -> Account:
        """Create an account.

        Args:
            name: 1 to 63 characters, unique among accounts.
            account_id: 12 digits; random ones if not given.
            organization: The organisation whose privacy budgets its data count in; the account itself by default.

        Raises:
            UsageError: The name, the id or the organisation is invalid.
            ConflictError: The name (`attributes["reason"] == "name"`) or the id (`"id"`) is taken.
        """
        check_new_account(name, account_id, organization)
        for _ in range(3):
            try:
                with self._database.write() as session:
                    taken = session.scalar(select(AccountRow).where(AccountRow.name == name))
                    if taken is not None:
                        raise _taken("An account", reason="name", existing_id=taken.id)
                    if account_id is not None and session.get(AccountRow, account_id) is not None:
                        raise ConflictError(
                            "An account with this id already exists.",
                            remedy="Choose another id.",
                            reason="id",
                            existing_id=account_id,
                        )
                    row = AccountRow(
                        id=account_id or _random_account_id(session, self._database.token_hex(8)),
                        name=name,
                        created_at=self._database.now(),
                        disabled=False,
                        organization=organization.lower() if organization else None,
                    )
                    return stored(session, row, Account)
            except ClashError:
                continue  # a concurrent writer got there first; the next attempt sees its row
        raise ClashError("The account could not be stored because of concurrent changes.", remedy="Try again.")

    def account(self, account_id: str) -> Account:
        """Return an account by its id.

        Raises:
            NotFoundError: The account does not exist.
        """
        with self._database.read() as session:
            return record_of(Account, _find_account(session, account_id))

    def accounts(self) -> tuple[Account, ...]:
        """Return all accounts, in order of creation."""
        return self._all(Account, select(AccountRow).order_by(AccountRow.created_at, AccountRow.id))

    def account_named(self, name_or_id: str) -> str:
        """Return the id of the account with the given name or id.

        Raises:
            NotFoundError: The account does not exist; the operator's own account always does.
        """
        with self._database.read() as session:
            if is_account_id(name_or_id):
                _require_account(session, name_or_id)
                return name_or_id
            found = session.scalar(select(AccountRow.id).where(AccountRow.name == name_or_id))
        if found is None:
            raise _no_such_account()
        return found

    @noted
    def set_account_disabled(self, account_id: str, disabled: bool) -> Account:
        """Disable all keys of an account, or enable them again.

        Raises:
            NotFoundError: The account does not exist.
        """
        with self._database.write() as session:
            row = _find_account(session, account_id)
            row.disabled = disabled
            return record_of(Account, row)

    @noted
    def add_access_key(self, account_id: str, key_id: str, sealed_secret: str) -> AccessKey:
        """Add an access key to an account.

        Args:
            account_id: An account that was created.
            key_id: AKIA and 16 random characters of A-Z and 2-7.
            sealed_secret: Its secret, encrypted with the installation's key.

        Raises:
            UsageError: The id is invalid.
            NotFoundError: The account does not exist.
            ConflictError: The id is taken.
        """
        check_access_key_id(key_id)
        with self._database.write(clash=_taken("An access key", reason="id")) as session:
            account = _find_account(session, account_id)
            row = AccessKeyRow(
                id=key_id,
                account_id=account.id,
                sealed_secret=sealed_secret,
                created_at=self._database.now(),
                disabled=False,
            )
            session.add(row)
            session.flush()
            return _access_key(row, account)

    def access_key(self, key_id: str) -> AccessKey | None:
        """Return an access key, or None; it counts as disabled if its account is disabled."""
        query = select(AccessKeyRow, AccountRow).join(AccountRow, AccountRow.id == AccessKeyRow.account_id)
        with self._database.read() as session:
            found = session.execute(query.where(AccessKeyRow.id == key_id)).first()
            return None if found is None else _access_key(found.AccessKeyRow, found.AccountRow)

    def access_keys(self, account_id: str) -> tuple[AccessKey, ...]:
        """Return all access keys of an account, in order of creation.

        Raises:
            NotFoundError: The account does not exist.
        """
        with self._database.read() as session:
            account = _find_account(session, account_id)
            query = select(AccessKeyRow).where(AccessKeyRow.account_id == account_id)
            rows = session.scalars(query.order_by(AccessKeyRow.created_at, AccessKeyRow.id))
            return tuple(_access_key(row, account) for row in rows)

    @noted
    def disable_access_key(self, key_id: str) -> None:
        """Disable an access key; idempotent.

        Raises:
            NotFoundError: The key does not exist.
        """
        with self._database.write() as session:
            row = session.get(AccessKeyRow, key_id)
            if row is None:
                raise NotFoundError("There is no such access key.", remedy="List the account's keys.")
            row.disabled = True

    @noted
    def create_collaboration(
        self,
        name: str,
        members: Sequence[str],
        *,
        seed_removed: bool = False,
        full_ensemble: bool = False,
        monthly: bool = False,
    ) -> Collaboration:
        """Create a collaboration of accounts.

        Args:
            name: 1 to 63 characters, unique among collaborations.
            members: The ids of 2 to 10 accounts.
            seed_removed: Whether lists exclude the seed's users, which reveals who is in the seed.
            full_ensemble: Whether jobs rank by the full ensemble, which reveals individuals.
            monthly: Whether the privacy budget of each pair of the members' organisations renews every month.

        Raises:
            UsageError: The name is invalid, or there are too few, too many or duplicate members.
            NotFoundError: A member does not exist.
            ConflictError: The name is taken.
        """
        check_new_collaboration(name, members)
        with self._database.write(clash=_taken("A collaboration", reason="name")) as session:
            for member in members:
                _require_account(session, member)
            taken = session.scalar(select(CollaborationRow).where(CollaborationRow.name == name))
            if taken is not None:
                raise _taken("A collaboration", reason="name", existing_id=taken.id)
            row = CollaborationRow(
                id=make_uuid(self._database.token_hex),
                name=name,
                created_at=self._database.now(),
                seed_removed=seed_removed,
                full_ensemble=full_ensemble,
            )
            session.add(row)
            session.flush()
            for place, member in enumerate(members):
                session.add(MemberRow(collaboration_id=row.id, account_id=member, place=place, active=True))
            session.flush()
            if monthly:
                make_monthly(session, [_organization(session, member) for member in members], self._database.now())
            return _collaboration(session, row)

    def collaboration(self, collaboration_id: str) -> Collaboration | None:
        """Return a collaboration, or None."""
        with self._database.read() as session:
            row = session.get(CollaborationRow, collaboration_id)
            return None if row is None else _collaboration(session, row)

    def collaborations(self, account_id: str | None = None) -> tuple[Collaboration, ...]:
        """Return all collaborations, or only those that an account is or was a member of, in order of creation."""
        query = select(CollaborationRow)
        if account_id is not None:
            its = select(MemberRow.collaboration_id).where(MemberRow.account_id == account_id)
            query = query.where(CollaborationRow.id.in_(its))
        with self._database.read() as session:
            rows = session.scalars(query.order_by(CollaborationRow.created_at, CollaborationRow.id)).all()
            return tuple(_collaboration(session, row) for row in rows)

    @noted
    def set_membership(self, collaboration_id: str, account_id: str, active: bool) -> Collaboration:
        """Let a member leave a collaboration, or rejoin it.

        Raises:
            NotFoundError: The collaboration does not exist, or the account was never a member.
        """
        with self._database.write() as session:
            row = session.get(CollaborationRow, collaboration_id)
            member = session.get(MemberRow, (collaboration_id, account_id))
            if row is None or member is None:
                raise NotFoundError(
                    "The collaboration does not exist, or the account is not a member.",
                    remedy="List the collaborations.",
                )
            member.active = active
            session.flush()
            return _collaboration(session, row)

    @noted
    def add_template(
        self,
        name: str,
        account_id: str,
        sql: str,
        collaboration_id: str | None = None,
        region: str = LOCAL_REGION,
    ) -> AnalysisTemplate:
        """Store an analysis template: an account's SQL that selects the users of a seed from its tables.

        Args:
            name: 1 to 63 characters, unique in the account and region.
            account_id: The owner of the tables it reads.
            sql: Its text; whether it may run is checked when it runs.
            collaboration_id: Its collaboration; the account must be an active member.
            region: Such as `us-east-1`.

        Raises:
            UsageError: The name, the SQL or the region is invalid.
            NotFoundError: The account does not exist, or is not an active member of the collaboration.
            ConflictError: The name is taken.
        """
        check_new_template(name, sql, region)
        with self._database.write(clash=_taken("A template", reason="name")) as session:
            _require_account(session, account_id)
            if collaboration_id is not None:
                member = session.get(MemberRow, (collaboration_id, account_id))
                if member is None or not member.active:
                    raise NotFoundError(
                        "The collaboration does not exist, or the account is not a member.",
                        remedy="List the collaborations.",
                    )
            taken = session.scalar(
                select(AnalysisTemplateRow).where(
                    AnalysisTemplateRow.account_id == account_id,
                    AnalysisTemplateRow.region == region,
                    AnalysisTemplateRow.name == name,
                )
            )
            if taken is not None:
                raise _taken("A template", reason="name", existing_id=taken.arn)
            row = AnalysisTemplateRow(
                arn=make_template_arn(account_id, region, self._database.token_hex),
                account_id=account_id,
                region=region,
                name=name,
                sql=sql,
                collaboration_id=collaboration_id,
                created_at=self._database.now(),
            )
            return stored(session, row, AnalysisTemplate)

    def template(self, arn: str) -> AnalysisTemplate | None:
        """Return an analysis template, or None."""
        return self._get(AnalysisTemplate, AnalysisTemplateRow, arn)

    def templates(self, account_id: str | None = None) -> tuple[AnalysisTemplate, ...]:
        """Return all templates, or those of one account, in order of creation."""
        query = select(AnalysisTemplateRow)
        if account_id is not None:
            query = query.where(AnalysisTemplateRow.account_id == account_id)
        return self._all(AnalysisTemplate, query.order_by(AnalysisTemplateRow.created_at, AnalysisTemplateRow.arn))

    @noted
    def register_bucket(
        self, name: str, account_id: str, url: str | None = None, profile: str | None = None
    ) -> AccountBucket:
        """Register a bucket name to one account; other accounts cannot use it.

        Args:
            name: A name by S3's rules.
            account_id: Its owner.
            url: The real bucket, `s3://bucket[/prefix]`; None for a folder of the account in the home.
            profile: The profile in the AWS configuration files with the credentials of the real bucket.

        Raises:
            UsageError: The name, URL or profile is invalid.
            NotFoundError: The account does not exist.
            ConflictError: The name is taken.
        """
        check_new_bucket(name, url, profile)
        with self._database.write(clash=_taken("A bucket", reason="name")) as session:
            _require_account(session, account_id)
            if session.get(BucketRow, name) is not None:
                raise _taken("A bucket", reason="name")
            row = BucketRow(
                name=name, account_id=account_id, url=url, profile=profile, created_at=self._database.now()
            )
            return stored(session, row, AccountBucket)

    def bucket(self, name: str) -> AccountBucket | None:
        """Return a registered bucket; None if the name is not registered."""
        return self._get(AccountBucket, BucketRow, name)

    def buckets(self, account_id: str | None = None) -> tuple[AccountBucket, ...]:
        """Return all registered buckets, or those of one account, sorted by name."""
        query = select(BucketRow)
        if account_id is not None:
            query = query.where(BucketRow.account_id == account_id)
        return self._all(AccountBucket, query.order_by(BucketRow.name))

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


def check_new_account(name: str, account_id: str | None = None, organization: str | None = None) -> None:
    """Raise UsageError unless the name, id and organisation are valid for a new account."""
    check_name(name)
    if organization is not None:
        check_label("organization", organization, 255)
    if is_account_id(name):
        raise UsageError("The account's name looks like an account id.", remedy="Choose another name.")
    if account_id is not None:
        check_account(account_id, LOCAL_REGION)


def check_new_collaboration(name: str, members: Sequence[str]) -> None:
    """Raise UsageError unless the name and the members are valid for a new collaboration."""
    check_name(name)
    if not 2 <= len(members) <= MAX_MEMBERS or len(set(members)) < len(members):
        raise UsageError(
            "The collaboration has too few, too many or duplicate members.",
            remedy=f"Give 2 to {MAX_MEMBERS} different accounts.",
        )


def check_new_template(name: str, sql: str, region: str) -> None:
    """Raise UsageError unless the name, SQL and region are valid for a new analysis template."""
    check_name(name)
    check_query_text(sql)
    check_template_region(region)


def check_new_bucket(name: str, url: str | None = None, profile: str | None = None) -> None:
    """Raise UsageError unless the name, URL and profile are valid for a new bucket."""
    check_bucket_name(name)
    if url is not None:
        check_bucket_url(url)
    check_text("profile", profile, 128)
    if (profile is None) != (url is None):
        # Without its own profile, a real bucket would be accessed with this machine's default credentials.
        raise UsageError(
            "A bucket's URL or its credentials profile is missing.",
            remedy="Give both for a real bucket, or neither for a folder of the home.",
        )


def _random_account_id(session: Session, random_hex: str) -> str:
    start = int(random_hex, 16)
    for step in range(100):
        account_id = f"{(start + step) % 10**12:012d}"
        if account_id != LOCAL_ACCOUNT and session.get(AccountRow, account_id) is None:
            return account_id
    raise ClashError("No free account id was found.", remedy="Try again.")


def _find_account(session: Session, account_id: str) -> AccountRow:
    row = session.get(AccountRow, account_id)
    if row is None:
        raise _no_such_account()
    return row


def _require_account(session: Session, account_id: str) -> None:
    if account_id != LOCAL_ACCOUNT:
        _find_account(session, account_id)


def _no_such_account() -> NotFoundError:
    return NotFoundError("There is no such account.", remedy="List the accounts, or create it.")


def _taken(what: str, **attributes: Any) -> ConflictError:
    which = "id" if attributes.get("reason") == "id" else "name"
    return ConflictError(
        f"{what} with this {which} already exists.", remedy=f"Choose another {which}.", **attributes
    )


def _access_key(row: AccessKeyRow, account: AccountRow) -> AccessKey:
    disabled = row.disabled or account.disabled
    return AccessKey(row.id, row.account_id, row.sealed_secret, row.created_at, disabled)


def _organization(session: Session, account_id: str) -> str:
    row = session.get(AccountRow, account_id)
    return (row.organization if row else None) or account_id


def _collaboration(session: Session, row: CollaborationRow) -> Collaboration:
    query = select(MemberRow).where(MemberRow.collaboration_id == row.id).order_by(MemberRow.place)
    members = tuple(Member(member.account_id, member.active) for member in session.scalars(query))
    return Collaboration(row.id, row.name, row.created_at, members, row.seed_removed, row.full_ensemble)


MAX_POLICY = 20_480
