"""Build and deliver a room's audiences: compute and store their artifacts, and finish the version.

Lives here: building a custom audience with its statistics, and delivering one to a group.
Add here when a room's audience is built or delivered in another way.
Keep out: the room's own assets (`building_rooms.py`), access rights (the API), computation (the core).

An audience's exact users are stored in its artifact, for the operator only; documents hold released numbers only.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from cleanroom_pipelines.audiences.canonical import canonical, lookalikes_of, what_it_needs
from cleanroom_pipelines.audiences.definitions import (
    Definition,
    Lookalike,
    Resolve,
    RuleBased,
    SeedRef,
    parse_definition,
    reachable,
)
from cleanroom_pipelines.audiences.evaluating import evaluate, evaluate_counted
from cleanroom_pipelines.audiences.insights import BaseFigures
from cleanroom_pipelines.audiences.relations import open_room_relations
from cleanroom_pipelines.catalog import (
    AudienceList,
    Catalog,
    CustomAudience,
    DataRoom,
    Kind,
    ParentRef,
    Version,
)
from cleanroom_pipelines.engine import Engine, open_configured_engine, open_parquet
from cleanroom_pipelines.errors import CleanroomError, NotFoundError, StatusCode, UsageError
from cleanroom_pipelines.privacy import Released, Releaser, budget_spent
from cleanroom_pipelines.privacy.prices import BASE_TENTHS
from cleanroom_pipelines.runs.artifact_documents import read_documents, write_documents
from cleanroom_pipelines.runs.budgets import Question, RoomBudget, write_down_reveals
from cleanroom_pipelines.runs.building import AssetResult, builds, built, nothing, stored
from cleanroom_pipelines.runs.building_rooms import unseal_hashes
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.work import Work
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, Input

USERS_FILE = "users.parquet"
FILES = "files"
"""The folder, in a delivery's artifact, of the files that the group may download."""

_ROWS_AT_ONCE = 100_000


def _built_earlier(store: ArtifactStore, newest: Version, asset: str) -> AssetResult:
    if asset not in newest.artifacts:
        why = "Nothing to build: audiences of this kind do not have this asset."
        return nothing(asset, newest.resource_id, why)
    sentence = str(newest.summary.get("sentence", "")) or "The audience is ready."
    return stored(store, newest.artifact(asset), sentence)


@builds(CustomAudience, built_earlier=_built_earlier)
def build_custom_audience(work: Work[CustomAudience], *, asset: str) -> AssetResult:
    """Build a custom audience: find its users and, for a lookalike, measure the quality of its ranking.

    Args:
        work: The claimed version of the audience.
        asset: `custom_audience` or `lookalike_statistics`; the first call builds both.
    """
    question = _Question.of(work)
    with question.opening() as (folders, engine):
        if isinstance(question.definition, Lookalike):
            sentence = _build_lookalike(question, question.definition, engine, folders)
        else:
            sentence = _build_set(question, engine, folders)
    work.finish(sentence, (question.parent,))
    newest = work.installation.catalog.resources.newest_version(Kind.CUSTOM_AUDIENCE, work.record.id)
    return _built_earlier(work.installation.store, newest, asset)


@dataclass(frozen=True)
class _Question:
    """What is needed to build one audience of a room: its definition, and the room's data and budget."""

    work: Work[CustomAudience]
    room: DataRoom
    room_version: Version
    definition: Definition

    @classmethod
    def of(cls, work: Work[CustomAudience]) -> "_Question":
        installation, audience = work.installation, work.record
        room = installation.catalog.get(DataRoom, audience.data_room_id)
        version = installation.catalog.resources.current_version(Kind.DATA_ROOM, room.id)
        definition = parse_definition(audience.definition)
        if version is None or "base_audience" not in version.artifacts:
            raise _not_provisioned("base audience")
        needs_seeds = any(
            isinstance(ref, SeedRef) for ref in reachable(definition, resolver(installation.catalog))
        )
        if needs_seeds and "seed_audiences" not in version.artifacts:
            raise _not_provisioned("seed audiences")
        return cls(work, room, version, definition)

    @property
    def installation(self) -> Installation:
        """The installation that the work is done on."""
        return self.work.installation

    @property
    def parent(self) -> ParentRef:
        """The version of the room that the audience is built from."""
        return self.room_version.ref

    @property
    def resolve(self) -> Resolve:
        """A function that returns the definition of another audience, to which this audience refers by id."""
        return resolver(self.installation.catalog)

    @cached_property
    def budget(self) -> RoomBudget:
        """The privacy budget of the room's two organisations for the room's data."""
        found = RoomBudget.of(self.installation, self.room, self.room_version)
        if found is None:
            raise _not_provisioned("data from one of its two sides")
        return found

    @cached_property
    def releaser(self) -> Releaser:
        """The `Releaser` that adds noise to the audience's counts."""
        return self.budget.releaser()

    @property
    def organization(self) -> str:
        """The organisation of the user who created the audience."""
        return self.installation.catalog.pairs.organization_of_user(self.work.record.created_by_email)

    def text(self, definition: Definition) -> str:
        """Return a definition's canonical text, in which seed audiences appear as digests of their ids."""
        return canonical(definition, self.resolve, self.budget.seeds)

    @cached_property
    def is_full(self) -> bool:
        """Whether to rank without noise: both providers approved it, or one organisation provides both sides."""
        pair = self.budget.budget.pair
        if pair.organizations[0] == pair.organizations[1]:
            return True
        return self.installation.catalog.pairs.is_full_lookalike(pair.id, self.room.id)

    @property
    def reveals(self) -> list[str]:
        """Codes for the facts that a list of the audience's users reveals by design."""
        needs = what_it_needs(self.definition, self.resolve, self.budget.seeds)
        lookalikes = lookalikes_of(self.definition, self.resolve).values()
        a, b = self.budget.budget.pair.organizations
        found = {each.value for each in needs}
        if any(each.exclude_seed_audience for each in lookalikes):
            found.add("seed")
        if lookalikes and self.is_full and a != b:
            found.add("ensemble")
        return sorted(found)

    @cached_property
    def figures(self) -> BaseFigures:
        """The noised figures about the base audience alone."""
        found = self._attributes.get("base_figures")
        if found is None:
            ledger = self.budget.budget.ledger
            raise budget_spent(total=ledger.total, spent=ledger.spent, cost=BASE_TENTHS)
        return BaseFigures.from_dict(found["figures"], is_hidden=self.room.hide_absolute_values)

    @property
    def named(self) -> dict[str, frozenset[str]]:
        """The attribute values that the room publishes."""
        return {each["name"]: frozenset(each["values"]) for each in self._attributes["attributes"]["attributes"]}

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        with self.installation.store.opening(self.room_version.artifact("data_attributes")) as folder:
            return read_documents(folder)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The base audience and, if the room has any, the seed audiences, as inputs of the audience's artifact."""
        names = [name for name in ("base_audience", "seed_audiences") if name in self.room_version.artifacts]
        return tuple(self.installation.store.as_input(self.room_version.artifact(name)) for name in names)

    @contextmanager
    def opening(self) -> Iterator[tuple[Mapping[str, Path], Engine]]:
        """Open the room's artifacts; yield their folders by asset, and an engine for querying the room's data."""
        store = self.installation.store
        assets = ("base_audience", "seed_audiences", "room_model")
        with ExitStack() as stack:
            scratch = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="audience-", dir=self.installation.home.scratch)
                )
            )
            folders = {
                asset: stack.enter_context(store.opening(self.room_version.artifact(asset)))
                for asset in assets
                if asset in self.room_version.artifacts
            }
            lookalikes = {
                text: stack.enter_context(store.opening(reference)) / USERS_FILE
                for text, reference in self._lookalikes().items()
            }
            paths = [scratch, *folders.values(), *(path.parent for path in lookalikes.values())]
            engine = stack.enter_context(open_configured_engine(self.installation.engine_settings, paths=paths))
            open_room_relations(engine, folders["base_audience"], folders.get("seed_audiences"))
            named = {f"lookalike {text}": path for text, path in lookalikes.items()}
            yield {**folders, "scratch": scratch, **named}, engine

    def find(self, engine: Engine, folders: Mapping[str, Path], definition: Definition, out: Path) -> int:
        """Write all users that a definition selects, for delivery as a list, and return their number."""
        return evaluate(engine, definition, self.resolve, _lookalike_files(folders), out)

    def find_counted(self, engine: Engine, folders: Mapping[str, Path], definition: Definition, out: Path) -> int:
        """Write the users that a definition selects, keeping one user per matching id; return their number."""
        return evaluate_counted(engine, definition, self.resolve, _lookalike_files(folders), out)

    def _lookalikes(self) -> dict[str, ArtifactReference]:
        """Return the built artifacts of the lookalikes that the audience refers to, by canonical text."""
        source = self.definition
        if isinstance(source, Lookalike):
            source = RuleBased(source.source)
        wanted = lookalikes_of(source, self.resolve)
        if not wanted:
            return {}
        found = {}
        for audience in self.installation.catalog.rooms.custom_audiences(self.room.id):
            text = canonical(parse_definition(audience.definition), self.resolve)
            if text not in wanted or text in found:
                continue
            version = self.installation.catalog.resources.current_version(Kind.CUSTOM_AUDIENCE, audience.id)
            if version and self.parent in version.parents and "custom_audience" in version.artifacts:
                found[text] = version.artifact("custom_audience")
        if len(found) < len(wanted):
            raise CleanroomError(
                "This audience uses a lookalike audience that failed.",
                remedy="Check the status of the lookalike audience.",
                status_code=StatusCode.PARENT_NOT_ACTIVE,
            )
        return found


def _lookalike_files(folders: Mapping[str, Path]) -> dict[str, Path]:
    prefix = "lookalike "
    return {name.removeprefix(prefix): path for name, path in folders.items() if name.startswith(prefix)}


def _build_set(question: _Question, engine: Engine, folders: Mapping[str, Path]) -> str:
    staged, counted = folders["scratch"] / USERS_FILE, folders["scratch"] / "counted.parquet"
    question.find(engine, folders, question.definition, staged)
    n_users = question.find_counted(engine, folders, question.definition, counted)
    text = question.text(question.definition)
    size = question.releaser.count(n_users, question=text)
    return _publish(question, staged, size, [question.budget.question("size", text)])


def _build_lookalike(
    question: _Question, lookalike: Lookalike, engine: Engine, folders: Mapping[str, Path]
) -> str:
    from cleanroom_pipelines.runs.room_lookalikes import LookalikeRun

    if "room_model" not in folders:
        raise UsageError(
            "The data room has no similarity model.",
            remedy="Provision segments or embeddings. The room must also allow lookalikes.",
            status_code=StatusCode.PARENT_NOT_ACTIVE,
        )
    source = RuleBased(lookalike.source)
    seed_file = folders["scratch"] / "seed.parquet"
    n_seed = question.find_counted(engine, folders, source, seed_file)
    run = LookalikeRun(
        question.work,
        question.budget,
        question.figures,
        question.named,
        model=folders["room_model"],
        scratch=folders["scratch"],
        seed_file=seed_file,
        n_seed=n_seed,
        source=question.text(source),
        organization=question.organization,
    )
    documents = run.rank_fully() if question.is_full else run.rank_privately()
    run.select(lookalike.reach, exclude_seed_audience=lookalike.exclude_seed_audience)
    size = run.size_of(lookalike.reach)
    sentence = _publish(question, folders["scratch"] / USERS_FILE, size, [])
    with question.work.drafting("lookalike_statistics", question.inputs, lookalike.as_dict()) as draft:
        write_documents(draft.path, documents)
    return sentence


def _publish(question: _Question, users: Path, size: Released, price: Sequence[Question]) -> str:
    """Write the audience's artifact: its users, and its noised numbers."""
    reveals = question.reveals
    with question.work.drafting(
        "custom_audience", question.inputs, {"question": question.text(question.definition)}
    ) as draft:
        (draft.path / USERS_FILE).write_bytes(users.read_bytes())
        draft.facts["reveals"] = reveals
        document = {
            "released": size.as_dict(),  # value, reason and noise
            "questions": [each.as_dict() for each in price],
            "is_enough": size.is_enough(),
            "reveals": reveals,
            "privacy": question.budget.budget.as_dict(),
        }
        write_documents(draft.path, {"audience": document})
    return _sentence(size)


def _sentence(released: Released) -> str:
    if released.value is None:
        return "The audience is ready; its size is not released."
    return f"The audience has about {released.value:,} users."


@builds(AudienceList, "audience_user_list")
def build_audience_list(work: Work[AudienceList]) -> AssetResult:
    """Deliver the list of an audience's users to a group of the room's participants."""
    from cleanroom_pipelines.delivery.destinations import AdDestination
    from cleanroom_pipelines.delivery.exports import ExportHooks, ExportOptions
    from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt
    from cleanroom_pipelines.delivery.kept import kept_activation
    from cleanroom_pipelines.delivery.writing import ControlGroup, deliver
    from cleanroom_pipelines.storage.buckets import folder_on_disk

    asset = "audience_user_list"
    installation, record = work.installation, work.record
    options, catalog = record.options, installation.catalog
    audience = catalog.get(CustomAudience, record.custom_audience_id)
    version, room_version = _current_audience(catalog, audience)
    reference = version.artifact("custom_audience")
    with work.withdrawing(asset), ExitStack() as stack:
        folder = stack.enter_context(installation.store.opening(reference))
        published = read_documents(folder)["audience"]
        _pay_for_list(work, audience, room_version, published)
        if not published["is_enough"]:
            raise CleanroomError(
                "The audience has too few users to deliver a list.",
                remedy="Define a larger audience.",
                status_code=StatusCode.INSUFFICIENT_MATCHING_SEED,
            )
        users = folder / USERS_FILE
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="activation-", dir=installation.home.scratch))
        )
        destination = AdDestination(options.get("destination") or "plain")
        activation = None
        if destination is not AdDestination.PLAIN:
            base = room_version.artifact("base_audience")
            hashes = scratch / "activation.parquet"
            unseal_hashes(installation.key, stack.enter_context(installation.store.opening(base)), hashes)
            activation = kept_activation(hashes, destination)
        delta_from = _delta_from(work, stack)
        inputs = (installation.store.as_input(reference),)
        with work.drafting(asset, inputs, dict(options)) as draft:
            control_group = None
            if share := options.get("holdout"):
                salt = holdout_salt(installation.room_key(audience.data_room_id), _subject_of(audience))
                holdout = Holdout.parse(str(share), salt)
                control_group = ControlGroup(holdout, folder_on_disk(draft.path / "holdout"))
            delivered = deliver(
                folder_on_disk(draft.path / FILES),
                _batches(users),
                ExportOptions(
                    export=record.id,
                    requested=_n_rows(users),
                    max_rows=int(options.get("max_rows") or 1_000_000),
                    gzip=bool(options.get("gzip")),
                    delta_from=delta_from,
                ),
                activation=activation,
                control_group=control_group,
                engine=installation.engine_settings,
                hooks=ExportHooks(work.fence),  # the group sees the list when the version is closed
            )
            (draft.path / USERS_FILE).write_bytes(users.read_bytes())
            draft.facts["reveals"] = published["reveals"]
            document = _published(delivered.manifest.as_dict(), published["reveals"])
            write_documents(draft.path, {"list": document})
        write_down_reveals(installation.audit, record.id, published["reveals"], room=audience.data_room_id)
        sentence = "The list was delivered."
        work.finish(sentence, (version.ref,))
    return built(work, asset, sentence, {"list": document})


def resolver(catalog: Catalog) -> Resolve:
    """Return a function that looks up the definition of a custom audience by id."""

    def resolve(audience_id: str) -> Definition:
        audience = catalog.get(CustomAudience, audience_id)
        return parse_definition(audience.definition)

    return resolve


def _current_audience(catalog: Catalog, audience: CustomAudience) -> tuple[Version, Version]:
    """Return the audience version that was built from the room's current version, and that room version."""
    room_version = catalog.resources.current_version(Kind.DATA_ROOM, audience.data_room_id)
    version = catalog.resources.current_version(Kind.CUSTOM_AUDIENCE, audience.id)
    if room_version is None or version is None or room_version.ref not in version.parents:
        raise CleanroomError(
            "The audience was not built from the room's current data.",
            remedy="Check its status, then request the list again.",
            status_code=StatusCode.PARENT_NOT_ACTIVE,
        )
    return version, room_version


def _pay_for_list(
    work: Work[AudienceList], audience: CustomAudience, room_version: Version, published: Mapping[str, Any]
) -> None:
    """Charge the budget for the size, because a delivered list shows that the audience is large enough."""
    if "questions" not in published:
        raise CleanroomError(
            "The audience was built by an earlier release and is being rebuilt.",
            remedy="Request the list again in a moment.",
            status_code=StatusCode.PARENT_NOT_ACTIVE,
        )
    installation = work.installation
    room = installation.catalog.get(DataRoom, audience.data_room_id)
    budget = RoomBudget.of(installation, room, room_version)
    if budget is not None and published["questions"]:
        organization = installation.catalog.pairs.organization_of_user(audience.created_by_email)
        budget.budget.pay([Question.from_dict(each) for each in published["questions"]], organization)


def _delta_from(work: Work[AudienceList], stack: ExitStack) -> Path | None:
    catalog, job_id = work.installation.catalog, work.record.options.get("delta_from")
    if not job_id:
        return None
    try:
        earlier = catalog.get(AudienceList, catalog.rooms.room_job(job_id).target_id)
    except NotFoundError:
        earlier = None
    version = catalog.resources.current_version(Kind.AUDIENCE_LIST, earlier.id) if earlier else None
    if earlier is None or earlier.delivered_to != work.record.delivered_to or version is None:
        raise UsageError(
            "The earlier list is not from one of your own jobs.",
            remedy="Give the id of one of your own user-list jobs.",
        )
    return stack.enter_context(work.installation.store.opening(version.artifact("audience_user_list"))) / FILES


def _subject_of(audience: CustomAudience) -> str:
    """Return the key of an audience's control group; all lists of one seed audience share a group.

    Each list of a seed audience has a hidden audience of its own, with another id.
    """
    return json.dumps(audience.definition, sort_keys=True) if audience.hidden else audience.id


def _published(manifest: Mapping[str, Any], reveals: Sequence[str]) -> dict[str, Any]:
    """Return what participants may see about a delivered list: files and format, but no count of omitted users."""
    changes = manifest.get("changes") or {}
    files = [
        {
            "name": part["name"],
            "n_users": part.get("users", part.get("rows")),
            "n_bytes": part["bytes"],
            "sha256": part["sha256"],
        }
        for part in [*manifest["files"], *changes.get("addedFiles", ()), *changes.get("removedFiles", ())]
    ]
    kept = ("format", "destination", "gzip")
    return {
        "files": files,
        "manifest": {name: manifest[name] for name in kept if name in manifest},
        "reveals": list(reveals),
    }


def _batches(users: Path) -> Iterator[pa.Array]:
    with open_parquet(users) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["user_id"]):
            yield batch.column(0)


def _n_rows(users: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(users).num_rows)


def _not_provisioned(what: str) -> CleanroomError:
    return CleanroomError(
        f"The room has no {what}.", remedy="Provision it first.", status_code=StatusCode.PARENT_NOT_ACTIVE
    )
