"""Helpers of the catalogue's tests: an adjustable clock, numbered ids, specs and a chain of resources."""

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import (
    RECORDS,
    AudienceModelSpec,
    Catalog,
    ConfiguredAudienceModelSpec,
    ExportJobSpec,
    GenerationJobSpec,
    Kind,
    ParentRef,
    Resource,
    Spec,
    TrainingDatasetSpec,
    Version,
)
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.uploads.roles import Role

T = TypeVar("T")

SOME_DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = (("user_id", Role.USER_ID), ("item_id", Role.ITEM_ID), ("ts", Role.TIMESTAMP))
SEED_DIGEST = "5eed" * 16


class Clock:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = SOME_DAY

    def __call__(self) -> datetime:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Numbered:
    """Gives 000000000001, 000000000002, … instead of randomness."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)

    def __call__(self, n_bytes: int) -> str:
        return f"{next(self.numbers):0{2 * n_bytes}x}"


def accepted_of(wrong: Iterable[T], call: Callable[[T], object], match: str = "") -> list[T]:
    """Those that a call takes, although it should reject each with a UsageError of this text and a remedy."""

    def is_accepted(each: T) -> bool:
        try:
            call(each)
        except UsageError as error:
            return not (error.remedy and re.search(match, str(error)))
        return True

    return [each for each in wrong if is_accepted(each)]


def utc_now() -> datetime:
    return datetime.now(UTC)


def dataset_spec(name: str = "baskets", **fields: object) -> TrainingDatasetSpec:
    return replace(TrainingDatasetSpec(name=name, source="warehouse/baskets", columns=COLUMNS), **fields)


def model_spec(dataset_id: str, name: str = "weekly", **fields: object) -> AudienceModelSpec:
    return replace(AudienceModelSpec(name=name, training_dataset_id=dataset_id), **fields)


def configured_spec(model_id: str, name: str = "partners", **fields: object) -> ConfiguredAudienceModelSpec:
    sizes = tuple(AudienceSize.parse(size) for size in ("1%", "5%", "20%"))
    spec = ConfiguredAudienceModelSpec(name=name, audience_model_id=model_id, sizes=sizes, output_url="exports")
    return replace(spec, **fields)


def job_spec(configured_id: str, name: str = "spring", **fields: object) -> GenerationJobSpec:
    spec = GenerationJobSpec(
        name=name, configured_audience_model_id=configured_id, seed_location="seeds/1", seed_digest=SEED_DIGEST
    )
    return replace(spec, **fields)


def export_spec(job_id: str, name: str = "top", size: str = "5%") -> ExportJobSpec:
    return ExportJobSpec(name=name, generation_job_id=job_id, size=AudienceSize.parse(size))


@dataclass
class Builder:
    """Creates resources and does their work the way a run would."""

    catalog: Catalog
    clock: Clock
    declared: bool = True
    made: list[tuple[str, int]] = field(default_factory=list)

    def create(self, spec: Spec) -> Resource:
        self.clock.turn(1)
        return self.catalog.resources.create(spec, declared=self.declared)

    def chain(self, **model_fields: object) -> tuple[Resource, Resource, Resource]:
        """A training dataset, a model and a configured model, all pending."""
        dataset = self.create(dataset_spec())
        model = self.create(model_spec(dataset.id, **model_fields))
        return dataset, model, self.create(configured_spec(model.id))

    def parents(self, record: Resource) -> tuple[ParentRef, ...]:
        if record.parent_kind is None:
            return ()
        parent = self.catalog.get(RECORDS[record.parent_kind], record.parent_id)
        version = parent.current_version
        return () if version is None else (ParentRef(parent.kind, parent.id, version),)

    def make(self, version: Version, run_id: str = "run") -> Version:
        claim = self.catalog.work.claim(version.kind, version.resource_id, version.number, run_id)
        assert claim is not None
        record = self.catalog.get(RECORDS[version.kind], version.resource_id)
        self.made.append((version.resource_id, version.number))
        return self.catalog.work.finish(claim, {"sentence": "Made."}, self.parents(record))

    def drain(self) -> list[tuple[str, int]]:
        """Make everything that becomes ready; what was made, in order."""
        begin = len(self.made)
        while ready := self.catalog.work.ready():
            self.make(ready[0])
        return self.made[begin:]

    def newest(self, record: Resource) -> Version:
        return self.catalog.resources.newest_version(record.kind, record.id)

    def again(self, record: Resource) -> Resource:
        return self.catalog.get(RECORDS[record.kind], record.id)


ALL_KINDS = tuple(Kind)
