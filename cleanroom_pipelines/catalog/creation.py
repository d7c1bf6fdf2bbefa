"""Creation: creating and changing resources.

Lives here: creating resources of every kind, changing configured models and declared resources, and the rules that
need the database.
Add here when a rule depends on a resource's parent or siblings.
Keep out: rules about the spec alone (`specs.py`) and versions after the first (`work.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog.database import ClashError, noted
from cleanroom_pipelines.catalog.deletion import move_seed
from cleanroom_pipelines.catalog.job_views import add_view, has_view, lock_job_names, view_named
from cleanroom_pipelines.catalog.lifecycle import (
    find_resource,
    insert_resource,
    lock_resource,
    name_scope,
    pending_version,
    require_not_deleting,
)
from cleanroom_pipelines.catalog.names import (
    LOCAL_ACCOUNT,
    LOCAL_REGION,
    Kind,
    check_account,
    check_tags,
    owner_job_name,
    partition_key,
)
from cleanroom_pipelines.catalog.records import (
    Cause,
    ConfiguredAtStart,
    Resource,
    Status,
)
from cleanroom_pipelines.catalog.resources import Resources, find_named
from cleanroom_pipelines.catalog.room_specs import SPECS, CustomAudienceSpec, spec_digest, spec_values
from cleanroom_pipelines.catalog.rooms import add_references
from cleanroom_pipelines.catalog.specs import (
    AudienceModelSpec,
    ChildTagPolicy,
    ConfiguredAudienceModelSpec,
    ExportJobSpec,
    GenerationJobSpec,
    Origin,
    Spec,
    Starter,
)
from cleanroom_pipelines.catalog.tables import (
    ROWS,
    AudienceModelRow,
    ConfiguredAudienceModelRow,
    GenerationJobRow,
    ResourceRow,
    resource_record,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_IDS

# The fields that the AWS API can change, and our own similar ones.
_UPDATABLE = frozenset(
    {
        "audience_model_id",
        "sizes",
        "output_url",
        "output_role_arn",
        "min_matching_seed_size",
        "share_metrics",
        "share_explanation",
        "export_format",
        "delivery",
        "description",
    }
)


class Creation(Resources):
    """The part of the catalogue that creates and changes resources."""

    @noted
    def create(
        self,
        spec: Spec,
        *,
        account_id: str = LOCAL_ACCOUNT,
        region: str = LOCAL_REGION,
        declared: bool = False,
        digest: str | None = None,
        parents_must_be_active: bool = False,
        starter: Starter | None = None,
    ) -> Resource:
        """Create a resource of any kind with its first version pending.

        Args:
            spec: The requested resource.
            account_id: Its owner, who must own its parent too.
            region: Such as `us-east-1`; its parent must be in the same region.
            declared: Whether `apply` requests it; only declared resources get new versions automatically.
            digest: The digest by which `apply` recognises an unchanged declaration; the spec's own if not given.
            parents_must_be_active: Whether to reject a parent that is still being built, as the AWS API does.
            starter: The account that starts a generation job on a configured model of `account_id`. It gets a copy
                with its own name, description and tags; the owner's job is named after both (`owner_job_name`).

        Returns:
            The resource; a job as its owner sees it. `job_view` returns it as the starter sees it.

        Raises:
            UsageError: The spec breaks a rule, or an export's size is not one of the configured model's.
            NotFoundError: The account has no such parent in this region.
            ConflictError: The name is taken (`attributes["reason"] == "name"`), the parent is not in a state that
                allows this, or the inbox received the same seed before (`"seed"`); `attributes["existing_id"]`
                then names the job.
        """
        spec.validate()
        check_account(account_id, region)
        self._check_seed_floor(spec)
        if starter is not None and starter.account_id == account_id:
            spec = replace(spec, name=starter.name, description=starter.description, tags=starter.tags)
            starter = None
        if starter is not None:
            starter.validate()
            assert isinstance(spec, GenerationJobSpec)
            spec = replace(spec, started_by=starter.account_id)
        for _ in range(3):
            try:
                with self._database.write() as session:
                    parent = _usable_parent(session, spec, account_id, region, parents_must_be_active)
                    new_id = partition_key(starter.name if starter else spec.name, self._database.token_hex)
                    named = _named(session, spec, new_id, (account_id, region), starter)
                    completed = _completed(session, named, parent, account_id, starter=starter)
                    now = self._database.now()
                    row = insert_resource(
                        session,
                        completed,
                        resource_id=new_id,
                        account_id=account_id,
                        region=region,
                        declared=declared,
                        now=now,
                        params=None if declared else _kept_configuration(parent),
                        spec_digest=digest or spec_digest(spec),
                        **_own_columns(completed, now),
                    )
                    if starter is not None:
                        add_view(session, row, starter)
                    if isinstance(completed, CustomAudienceSpec):
                        add_references(session, row, completed)
                    if isinstance(completed, GenerationJobSpec):
                        move_seed(session, None, completed.seed_location, now)
                    return resource_record(row)
            except ClashError:
                continue  # a concurrent writer got there first; the next attempt sees its row
        raise ClashError("The resource could not be stored because of concurrent changes.", remedy="Try again.")

    @noted
    def update_configured_audience_model(
        self,
        resource_id: str,
        account_id: str | None = None,
        *,
        region: str | None = None,
        parents_must_be_active: bool = False,
        **changes: Any,
    ) -> Resource:
        """Change a configured audience model; the change applies to jobs started from now on.

        Args:
            resource_id: Its partition key.
            account_id: The required owner.
            region: The required region.
            parents_must_be_active: Whether to reject a new model that is still being built.
            **changes: The fields of the spec to change; all but name, tags and the tag policy.

        Raises:
            UsageError: A change breaks a rule.
            NotFoundError: The configured model or the new audience model does not exist.
            ConflictError: It is being deleted, or the new model's state does not allow this.
        """
        if set(changes) - _UPDATABLE:
            raise UsageError(
                "Some fields of a configured audience model cannot be changed.",
                remedy=f"Change only {', '.join(sorted(_UPDATABLE))}.",
            )

        def changed(row: ResourceRow) -> Spec:
            values = spec_values(resource_record(row)) | changes
            return ConfiguredAudienceModelSpec(**values)  # type: ignore[arg-type]

        return self._change(
            Kind.CONFIGURED_AUDIENCE_MODEL,
            resource_id,
            changed,
            place=(account_id, region),
            cause=Cause.UPDATED,
            parents_must_be_active=parents_must_be_active,
        )

    @noted
    def update_declared(self, kind: Kind, resource_id: str, spec: Spec, digest: str | None = None) -> Resource:
        """Apply a changed declaration; request a new version if an artifact depends on the change.

        Args:
            kind: The resource's kind.
            resource_id: Its partition key.
            spec: The whole new declaration, under the same name.
            digest: The digest by which `apply` recognises it; the spec's own if not given.

        Raises:
            UsageError: The spec breaks a rule, or has another name or kind.
            NotFoundError: The resource or its parent does not exist.
            ConflictError: It is being deleted.
        """
        if spec.kind is not kind:
            raise UsageError(
                f"The declaration does not describe a resource of kind {kind.words}.",
                remedy="Declare the same kind of resource as before.",
            )
        return self._change(kind, resource_id, lambda _: spec, digest=digest, cause=Cause.DECLARED)

    def _change(
        self,
        kind: Kind,
        resource_id: str,
        changed: Callable[[ResourceRow], Spec],
        *,
        cause: Cause,
        place: tuple[str | None, str | None] = (None, None),
        digest: str | None = None,
        parents_must_be_active: bool = False,
    ) -> Resource:
        for _ in range(3):
            try:
                return self._change_once(
                    kind,
                    resource_id,
                    changed,
                    cause=cause,
                    place=place,
                    digest=digest,
                    parents_must_be_active=parents_must_be_active,
                )
            except ClashError:
                continue  # a concurrent writer changed its parent
        raise ClashError(
            f"The {kind.words} could not be changed because of concurrent changes.", remedy="Try again."
        )

    def _change_once(
        self,
        kind: Kind,
        resource_id: str,
        make_spec: Callable[[ResourceRow], Spec],
        *,
        cause: Cause,
        place: tuple[str | None, str | None],
        digest: str | None,
        parents_must_be_active: bool,
    ) -> Resource:
        now = self._database.now()
        with self._database.write() as session:
            row = find_resource(session, ROWS[kind], resource_id, *place)
            spec = make_spec(row)
            spec.validate()
            self._check_seed_floor(spec)
            must_be_active = parents_must_be_active and spec.parent_id != row.parent_id
            parent = _usable_parent(session, spec, row.account_id, row.region, must_be_active)
            row = lock_resource(session, ROWS[kind], resource_id)
            require_not_deleting(row)
            spec = make_spec(row)  # again under the lock, so that no concurrent change is lost
            if parent is not None and spec.parent_id != parent.id:
                raise ClashError("The resource's parent was changed concurrently.", remedy="Try again.")
            if spec.name != row.name or name_scope(spec, row.account_id) != row.scope:
                raise UsageError(
                    f"A resource of kind {kind.words} cannot be renamed.", remedy="Declare a new one."
                )
            completed = _completed(session, spec, parent, row.account_id, is_new=False)
            wanted = spec_values(completed) | {"tags": dict(completed.tags)}
            changed = {name for name, value in wanted.items() if _differs(getattr(row, name), value)}
            is_work = bool(changed - SPECS[kind].fields_without_rebuild)
            if isinstance(row, GenerationJobRow) and row.seed_location is None and not is_work:
                changed.discard("seed_location")  # the seed was used and deleted, so it need not be stored again
            if isinstance(row, GenerationJobRow) and "seed_location" in changed:
                move_seed(session, row.seed_location, str(wanted["seed_location"] or ""), now)
            for name in changed:
                setattr(row, name, wanted[name])
            row.spec_digest, row.updated_at = digest or spec_digest(spec), now
            if isinstance(row, AudienceModelRow) and "refresh_every_seconds" in changed:
                row.next_refresh_at = _first_refresh(row.refresh_every_seconds, now)
            session.flush()
            if is_work:
                pending_version(session, row, cause, now)
            session.refresh(row)
            return resource_record(row)

    def _check_seed_floor(self, spec: Spec) -> None:
        if not isinstance(spec, ConfiguredAudienceModelSpec):
            return
        if not self._database.seed_floor <= spec.min_matching_seed_size <= MAX_SEED_IDS:
            raise UsageError(
                "The minimum matching seed size is out of range.",
                remedy=f"Give {self._database.seed_floor} to {MAX_SEED_IDS:,}; only the operator can allow less.",
            )


def _usable_parent(
    session: Session, spec: Spec, account_id: str, region: str, must_be_active: bool
) -> ResourceRow | None:
    if spec.parent_kind is None or spec.parent_id is None:
        return None
    parent = lock_resource(session, ROWS[spec.parent_kind], spec.parent_id, account_id, region)
    if isinstance(spec, ExportJobSpec) and spec.started_by not in (None, account_id):
        _reject_stranger(session, spec, parent)
    require_not_deleting(parent)
    if must_be_active and parent.status is not Status.ACTIVE:
        raise ConflictError(
            f"The {parent.kind.words} {parent.id} is not ACTIVE.",
            remedy="Wait until it is ACTIVE, then try again.",
        )
    return parent


def _reject_stranger(session: Session, spec: ExportJobSpec, job: ResourceRow) -> None:
    if spec.started_by is None or not has_view(session, job.id, spec.started_by):
        raise NotFoundError(f"There is no such {job.kind.words}.", remedy="List the existing ones.")


def _named(session: Session, spec: Spec, new_id: str, place: tuple[str, str], starter: Starter | None) -> Spec:
    """Reject a taken name; for a cross-account job, also choose a free name in the model owner's account."""
    account_id, region = place
    if spec.kind is Kind.GENERATION_JOB:
        lock_job_names(session, region, account_id, *([starter.account_id] if starter else []))
    if starter is None:
        _reject_taken_name(session, spec, account_id, region)
        return spec
    own = replace(spec, name=starter.name)
    _reject_taken_name(session, own, starter.account_id, region)
    name = owner_job_name(starter.account_id, starter.name)
    if _taken_by(session, replace(spec, name=name), account_id, region) is not None:
        # The last digits of the id keep the name unique when the starter deleted its copy of an earlier job of the
        # same name, or the owner has a job of that name.
        name = owner_job_name(starter.account_id, starter.name, new_id[-6:])
    return replace(spec, name=name)


_PLACES = {
    Kind.EXPORT_JOB: "for this generation job",
    Kind.CUSTOM_AUDIENCE: "in your group of this data room",
}


def _reject_taken_name(session: Session, spec: Spec, account_id: str, region: str) -> None:
    taken_by = _taken_by(session, spec, account_id, region)
    if taken_by is not None:
        place = _PLACES.get(spec.kind, "in this account")
        raise ConflictError(
            f"Another {spec.kind.words} named {spec.name!r} already exists {place}.",
            remedy="Choose another name, or delete the existing one first.",
            reason="name",
            existing_id=taken_by,
        )


def _taken_by(session: Session, spec: Spec, account_id: str, region: str) -> str | None:
    """Return the id of the account's resource or cross-account job with this name; None if the name is free."""
    scope = name_scope(spec, account_id)
    taken = find_named(session, spec.kind, spec.name, account_id=account_id, region=region, scope=scope)
    if taken is not None:
        return taken.id
    return view_named(session, spec.name, account_id, region) if spec.kind is Kind.GENERATION_JOB else None


def _kept_configuration(parent: ResourceRow | None) -> dict[str, Any] | None:
    """Return the configured model's settings to store with a job, so that later changes do not affect the job."""
    if not isinstance(parent, ConfiguredAudienceModelRow):
        return None
    kept = ConfiguredAtStart(parent.audience_model_id, parent.sizes, parent.min_matching_seed_size)
    return kept.as_params()


def _completed(
    session: Session,
    spec: Spec,
    parent: ResourceRow | None,
    account_id: str,
    *,
    is_new: bool = True,
    starter: Starter | None = None,
) -> Spec:
    """Add inherited tags and the account that starts the job to a spec; reject sizes the parent does not allow."""
    if isinstance(spec, GenerationJobSpec) and isinstance(parent, ConfiguredAudienceModelRow):
        _reject_size(spec.export_size, parent)
        if is_new and spec.origin is Origin.INBOX:
            _reject_second_upload(session, spec)
        tags = {} if starter else dict(spec.tags)
        if parent.child_tag_policy is ChildTagPolicy.FROM_PARENT_RESOURCE:
            tags = {**parent.tags, **tags}
            check_tags(tags)
        return replace(spec, tags=tags, started_by=spec.started_by or account_id)
    if isinstance(spec, ExportJobSpec) and parent is not None and parent.parent_id is not None:
        configured = find_resource(session, ConfiguredAudienceModelRow, parent.parent_id)
        _reject_size(spec.size, configured)
        return replace(spec, started_by=spec.started_by or account_id)
    return spec


def _reject_size(size: AudienceSize | str | None, configured: ConfiguredAudienceModelRow) -> None:
    if isinstance(size, AudienceSize) and size not in configured.sizes:
        raise UsageError(
            f"The configured audience model does not allow the audience size {size}.",
            remedy=f"Give one of {', '.join(map(str, configured.sizes))}.",
        )


def _reject_second_upload(session: Session, spec: GenerationJobSpec) -> None:
    earlier = session.scalar(
        select(GenerationJobRow).where(
            GenerationJobRow.inbox_model_id == spec.configured_audience_model_id,
            GenerationJobRow.seed_digest == spec.seed_digest,
        )
    )
    if earlier is not None:
        raise ConflictError(
            f"This seed was already uploaded to the inbox, and belongs to the generation job {earlier.id}.",
            remedy="Use that job, or upload another seed.",
            reason="seed",
            existing_id=earlier.id,
        )


def _own_columns(spec: Spec, now: datetime) -> dict[str, Any]:
    """Return a new resource's values for the columns that have no field in its spec."""
    if isinstance(spec, AudienceModelSpec):
        return {"next_refresh_at": _first_refresh(spec.refresh_every_seconds, now)}
    if isinstance(spec, GenerationJobSpec) and spec.origin is Origin.INBOX:
        return {"inbox_model_id": spec.configured_audience_model_id}
    return {}


def _first_refresh(every_seconds: int | None, now: datetime) -> datetime | None:
    return None if every_seconds is None else now + timedelta(seconds=every_seconds)


def _differs(stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple) and wanted and isinstance(wanted[0], AudienceSize):
        return set(stored) != set(wanted)  # stored in ascending order
    return bool(stored != wanted)
