"""The registry of resource kinds, each with its Dagster job and its assets.

Lives here: a row per kind (partition set, job) and a row per asset (kind, code version, page).
Add here the row of each new asset or kind.
Keep out: records and tables (catalog), how an asset is built (building*.py) and drawn (defs/assets).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cleanroom_pipelines.catalog import Kind


@dataclass(frozen=True)
class KindRow:
    """The names of a resource kind's partition set and job in Dagster.

    Args:
        partition_set: Name of its partition set, with one partition per resource.
        job: Name of the job that builds its assets.
    """

    partition_set: str
    job: str


@dataclass(frozen=True)
class AssetRow:
    """An asset's kind and code version, and the function that creates its metadata.

    Args:
        kind: The kind of resource behind its partitions.
        code_version: Raise it when the asset's code builds something different from the same inputs.
        page: The function below `cleanroom_pipelines.defs` that returns its metadata, as `module.name`.
        check: The blocking check of the data; a run reports it as failed when the data fail validation.
    """

    kind: Kind
    code_version: str
    page: str
    check: str | None = None


KINDS: Mapping[Kind, KindRow] = {
    Kind.TRAINING_DATASET: KindRow("training_datasets", "validate_training_dataset"),
    Kind.AUDIENCE_MODEL: KindRow("audience_models", "train_audience_model"),
    Kind.CONFIGURED_AUDIENCE_MODEL: KindRow("configured_audience_models", "configure_audience_model"),
    Kind.GENERATION_JOB: KindRow("generation_jobs", "generate_audience"),
    Kind.EXPORT_JOB: KindRow("export_jobs", "export_audience"),
    Kind.DATA_LAB: KindRow("data_labs", "validate_data_lab"),
    Kind.DATA_ROOM: KindRow("data_rooms", "build_data_room"),
    Kind.CUSTOM_AUDIENCE: KindRow("custom_audiences", "build_custom_audience"),
    Kind.AUDIENCE_LIST: KindRow("audience_lists", "deliver_audience"),
}
ASSETS: Mapping[str, AssetRow] = {
    "training_dataset": AssetRow(Kind.TRAINING_DATASET, "1", "pages.training_dataset", "dataset_is_valid"),
    "audience_model": AssetRow(Kind.AUDIENCE_MODEL, "3", "pages.audience_model"),
    "configured_audience_model": AssetRow(Kind.CONFIGURED_AUDIENCE_MODEL, "1", "pages.configured_audience_model"),
    "seed_validation_report": AssetRow(Kind.GENERATION_JOB, "1", "pages.seed_validation_report", "seed_is_usable"),
    "audience": AssetRow(Kind.GENERATION_JOB, "3", "pages.audience"),
    "audience_export": AssetRow(Kind.EXPORT_JOB, "1", "pages.audience_export"),
    "data_lab": AssetRow(Kind.DATA_LAB, "1", "room_pages.data_lab"),
    "base_audience": AssetRow(Kind.DATA_ROOM, "1", "room_pages.base_audience", "base_is_usable"),
    "seed_audiences": AssetRow(Kind.DATA_ROOM, "1", "room_pages.seed_audiences", "seeds_are_usable"),
    "data_attributes": AssetRow(Kind.DATA_ROOM, "2", "room_pages.data_attributes"),
    "overlap_statistics": AssetRow(Kind.DATA_ROOM, "3", "room_pages.overlap_statistics"),
    "insights": AssetRow(Kind.DATA_ROOM, "3", "room_pages.insights"),
    "room_model": AssetRow(Kind.DATA_ROOM, "3", "room_pages.room_model"),
    "custom_audience": AssetRow(Kind.CUSTOM_AUDIENCE, "2", "room_pages.custom_audience"),
    "lookalike_statistics": AssetRow(Kind.CUSTOM_AUDIENCE, "2", "room_pages.lookalike_statistics"),
    "audience_user_list": AssetRow(Kind.AUDIENCE_LIST, "1", "room_pages.audience_user_list"),
}
"""The assets of one kind are in build order. A new one comes before the one that closes the version."""

ASSETS_OF: Mapping[Kind, tuple[str, ...]] = {
    kind: tuple(name for name, row in ASSETS.items() if row.kind is kind) for kind in KINDS
}
