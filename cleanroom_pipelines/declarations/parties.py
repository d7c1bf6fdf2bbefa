"""Apply declared accounts, collaborations, templates, buckets and receivers of notices.

Lives here: comparing them with the catalogue, and creating missing ones.
Add here when parties get another kind of object that can be declared.
Keep out: resources (applying.py) and access keys: a secret is shown once, by the command that creates it.

Collaborations, templates and buckets are never updated, because other parties rely on them. A declaration that
differs from the existing object is rejected. A receiver of notices is updated: only its own notices change.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    Catalog,
    Channel,
    Collaboration,
    Command,
    Mail,
    NoticeReceiver,
    Webhook,
)
from cleanroom_pipelines.catalog.names import is_account_id
from cleanroom_pipelines.catalog.parties import (
    check_new_account,
    check_new_bucket,
    check_new_collaboration,
    check_new_template,
)
from cleanroom_pipelines.declarations.form import (
    AccountForm,
    BucketForm,
    CollaborationForm,
    Declaration,
    NoticeForm,
    TemplateForm,
    read_text,
)
from cleanroom_pipelines.errors import ConflictError, UsageError


class PartyKind(StrEnum):
    """The kinds of objects, other than resources, that a declaration may contain."""

    ACCOUNT = "account"
    COLLABORATION = "collaboration"
    TEMPLATE = "template"
    BUCKET = "bucket"
    NOTICE = "notice"

    @property
    def words(self) -> str:
        """The kind, as written in sentences."""
        return self.value


# Arguments: kind, name, id (empty if a dry run would create the object), whether it is new (None: updated).
Note = Callable[[PartyKind, str, str, bool | None], None]


class ApplyingParties:
    """Applies the accounts, collaborations, templates, buckets and receivers of notices of a declaration.

    Args:
        catalog: The catalogue.
        declaration: The declared state.
        note: Called for each object that was created or kept.
        dry_run: Report changes without making them.
    """

    def __init__(self, catalog: Catalog, declaration: Declaration, note: Note, *, dry_run: bool) -> None:
        self._catalog = catalog
        self._declaration = declaration
        self._note = note
        self._dry_run = dry_run
        # An account that a dry run would create has an empty id, unless the file declares one.
        self._accounts = {account.name: account.id for account in catalog.parties.accounts()}
        self._collaborations = {one.name: one for one in catalog.parties.collaborations()}
        self._new_members: dict[str, Sequence[str]] = {}

    def account_of(self, name_or_id: str) -> str:
        """Return the id of a declared or existing account; empty if a dry run would have to generate it.

        Raises:
            UsageError: The account does not exist.
        """
        if name_or_id in self._accounts:
            return self._accounts[name_or_id]
        if name_or_id == LOCAL_ACCOUNT or (is_account_id(name_or_id) and name_or_id in self._accounts.values()):
            return name_or_id
        raise UsageError(
            "The entry refers to an account that is not declared.",
            remedy="Declare it in the same file, or create it first.",
        )

    def apply_account(self, form: AccountForm) -> None:
        """Create an account, or keep the existing one with this name."""
        check_new_account(form.name, form.id, form.organization)
        existing = self._accounts.get(form.name)
        if existing is not None:
            if form.id not in (None, existing):
                raise ConflictError(
                    "An account with this name exists with another id.", remedy="Give that id, or omit the id."
                )
            if form.organization and form.organization.lower() != self._catalog.pairs.organization_of_account(
                existing
            ):
                raise ConflictError(
                    "An account with this name belongs to another organisation. The organisation of an account "
                    "cannot be changed.",
                    remedy="Give the account's organisation, or omit `organization`.",
                )
            self._note(PartyKind.ACCOUNT, form.name, existing, False)
            return
        if form.id in self._accounts.values():
            raise ConflictError("An account with this id exists under another name.", remedy="Give its name.")
        account_id = form.id or ""
        if not self._dry_run:
            account_id = self._catalog.parties.create_account(form.name, form.id, form.organization).id
        self._accounts[form.name] = account_id
        self._note(PartyKind.ACCOUNT, form.name, account_id, True)

    def apply_collaboration(self, form: CollaborationForm) -> None:
        """Create a collaboration, or keep the existing one with this name."""
        # Accounts that a dry run would create have no id yet; their names distinguish them.
        members = [self.account_of(member) or member for member in form.members]
        check_new_collaboration(form.name, members)
        existing = self._collaborations.get(form.name)
        if existing is not None:
            if {member.account_id for member in existing.members} != set(members):
                raise ConflictError(
                    "A collaboration with this name exists with other members.",
                    remedy="Choose another name; to remove a member, use `cleanroom collaboration leave`.",
                )
            if not self._has_terms(existing, form):
                raise ConflictError(
                    "A collaboration with this name exists with another seed, privacy or period.",
                    remedy="Choose another name: terms cannot change, because the members rely on them.",
                )
            self._note(PartyKind.COLLABORATION, form.name, existing.id, False)
            return
        self._new_members[form.name] = members
        new_id = ""
        if not self._dry_run:
            created = self._catalog.parties.create_collaboration(
                form.name,
                members,
                seed_removed=form.seed == "removed",
                full_ensemble=form.privacy == "full",
                monthly=form.period == "month",
            )
            self._collaborations[form.name], new_id = created, created.id
        self._note(PartyKind.COLLABORATION, form.name, new_id, True)

    def apply_template(self, form: TemplateForm) -> None:
        """Add a template, or keep the existing one with this name."""
        account, region = form.account or self._declaration.account, self._declaration.region
        account_id = self.account_of(account)
        remedy = "Give its path relative to the declaration file."
        sql = read_text(self._declaration.folder / form.sql, "SQL file", remedy=remedy)
        check_new_template(form.name, sql, region)
        collaboration = self._collaboration_of(form.collaboration, account_id or account)
        existing = next(
            (
                one
                for one in self._catalog.parties.templates(account_id)
                if one.name == form.name and one.arn.split(":")[3] == region
            ),
            None,
        )
        if existing is not None:
            declared_collaboration = collaboration.id if collaboration else None
            if (existing.sql, existing.collaboration_id) != (sql, declared_collaboration):
                raise ConflictError(
                    "A template with this name exists with other SQL or another collaboration.",
                    remedy="Choose another name: templates cannot change, because clients rely on them.",
                )
            self._note(PartyKind.TEMPLATE, form.name, existing.arn, False)
            return
        arn = ""
        if not self._dry_run:
            collaboration_id = collaboration.id if collaboration else None
            arn = self._catalog.parties.add_template(form.name, account_id, sql, collaboration_id, region).arn
        self._note(PartyKind.TEMPLATE, form.name, arn, True)

    def apply_bucket(self, form: BucketForm) -> None:
        """Register a bucket, or keep the existing one with this name."""
        account_id = self.account_of(form.account or self._declaration.account)
        check_new_bucket(form.name, form.url, form.credentials_profile)
        existing = self._catalog.parties.bucket(form.name)
        if existing is not None:
            found = (existing.account_id, existing.url, existing.profile)
            if found != (account_id, form.url, form.credentials_profile):
                raise ConflictError(
                    "A bucket with this name exists with another account, URL or credentials profile.",
                    remedy="Choose another name.",
                )
            self._note(PartyKind.BUCKET, form.name, form.name, False)
            return
        if not self._dry_run:
            self._catalog.parties.register_bucket(form.name, account_id, form.url, form.credentials_profile)
        self._note(PartyKind.BUCKET, form.name, "" if self._dry_run else form.name, True)

    def apply_notice(self, form: NoticeForm) -> None:
        """Create or update a receiver of notices, or keep the existing one with this name."""
        receiver = _receiver_of(form)
        receiver.check()
        if receiver.organization is not None and receiver.organization not in self._organizations():
            raise UsageError(
                "No account and no user belongs to this organisation.",
                remedy="Give the `organization` of an account or user, or the id of an account that has no "
                "organisation.",
            )
        existing = {each.name: each for each in self._catalog.notices.all()}.get(form.name)
        if existing != receiver and not self._dry_run:
            self._catalog.notices.declare_receiver(receiver)
        is_new = True if existing is None else None if existing != receiver else False
        self._note(PartyKind.NOTICE, form.name, "" if self._dry_run and is_new else form.name, is_new)

    def _organizations(self) -> frozenset[str]:
        declared = (form.organization or form.id or "" for form in self._declaration.accounts)
        return self._catalog.notices.known_organizations() | {each.lower() for each in declared} | {LOCAL_ACCOUNT}

    def _has_terms(self, existing: Collaboration, form: CollaborationForm) -> bool:
        """Whether a collaboration has the declared terms; `life` also matches a budget that is now monthly."""
        found = (existing.seed_removed, existing.full_ensemble)
        period = self._catalog.pairs.period_of(member.account_id for member in existing.members)
        return found == (form.seed == "removed", form.privacy == "full") and (form.period in ("life", period))

    def _collaboration_of(self, name: str | None, account: str) -> Collaboration | None:
        """Return a template's collaboration; None if it declares none, or if a dry run would create it."""
        if name is None:
            return None
        existing = self._collaborations.get(name)
        if existing is None and account in self._new_members.get(name, ()):
            return None
        if existing is None or not existing.has_active(account):
            raise UsageError(
                "The template's collaboration is not declared, or does not include the template's account.",
                remedy="Declare the collaboration in the same file, with this account as a member.",
            )
        return existing


def _receiver_of(form: NoticeForm) -> NoticeReceiver:
    channel: Channel
    if form.webhook is not None:
        channel = Webhook(**form.webhook.model_dump())
    elif form.email is not None:
        channel = Mail(**form.email.model_dump())
    else:
        channel = Command(form.command or "")
    organization = form.organization.lower() if form.organization else None
    return NoticeReceiver(form.name, channel, organization, tuple(sorted(set(form.kinds))), form.only_failures)
