"""Contract: a spec that breaks a documented rule is a UsageError before anything is stored; values at the limits
are valid."""

import pickle
import traceback

import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize, SizeType
from cleanroom_pipelines.catalog import (
    AudienceModelSpec,
    ExportJobSpec,
    RequestedSeed,
    Spec,
    TrainingDatasetSpec,
    spec_digest,
)
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.uploads.roles import Role

from .building import COLUMNS, accepted_of, configured_spec, dataset_spec, export_spec, job_spec, model_spec

USER, ITEM, TIME, CATEGORY, NUMBER = (
    Role.USER_ID,
    Role.ITEM_ID,
    Role.TIMESTAMP,
    Role.CATEGORICAL_FEATURE,
    Role.NUMERICAL_FEATURE,
)


UUID = "01234567-89ab-cdef-0123-456789abcdef"


def requesting(**fields: object) -> Spec:
    """A job that asks for a seed to be fetched."""
    seed = RequestedSeed(role_arn="arn:aws:iam::111122223333:role/r", **fields)
    return job_spec("c", seed_location=None, seed_digest=None, requested_seed=seed)


def sizes(*texts: str) -> tuple[AudienceSize, ...]:
    return tuple(AudienceSize.parse(text) for text in texts)


ACCEPTED = [
    dataset_spec(columns=COLUMNS[:2]),
    dataset_spec(columns=COLUMNS + tuple((f"f{n}", CATEGORY) for n in range(10))),
    dataset_spec(users_source="users", users_columns=(("u", USER), ("age", NUMBER))),
    dataset_spec(max_invalid_share=0.0, description="two\nlines", tags={"team": "retail"}),
    model_spec("d", window_start=0, window_end=1),
    model_spec("d", refresh_every_seconds=604_800, refresh_window_seconds=7_776_000),
    configured_spec("m", sizes=sizes("1%", "100%")),
    configured_spec("m", sizes=sizes("1", "20000000")),
    configured_spec("m", sizes=tuple(AudienceSize(SizeType.PERCENTAGE, n) for n in range(1, 26))),
    job_spec("c", export_size="largest", seed_name="spring.jsonl", seed_bytes=0),
    job_spec("c", export_size=AudienceSize.parse("5%"), seed_location=None),
    export_spec("j"),
    requesting(s3_uri="s3://seeds/spring.jsonl"),
    requesting(query="SELECT user_id\nFROM shop.buyers", protected_query_id=UUID),
    requesting(query="SELECT :a", parameters={"a": "", "b": "x\ny" * 250}),
    requesting(template_arn="arn:aws:cleanrooms:template", parameters={"a": "1"}),
]


def test_valid_specs_are_accepted() -> None:
    for spec in ACCEPTED:
        spec.validate()


REJECTED = [
    dataset_spec(name="line\nend"),
    dataset_spec(source=""),
    dataset_spec(source="a\0b"),
    dataset_spec(columns=()),
    dataset_spec(columns=COLUMNS[1:]),
    dataset_spec(columns=COLUMNS[:1]),
    dataset_spec(columns=(*COLUMNS, ("again", USER))),
    dataset_spec(columns=(*COLUMNS, ("again", ITEM))),
    dataset_spec(columns=(*COLUMNS, ("again", TIME))),
    dataset_spec(columns=(*COLUMNS, ("ts", CATEGORY))),
    dataset_spec(columns=(*COLUMNS, ("", CATEGORY))),
    dataset_spec(columns=COLUMNS + tuple((f"f{n}", NUMBER) for n in range(11))),
    dataset_spec(users_source="users"),
    dataset_spec(users_columns=(("u", USER),)),
    dataset_spec(users_source="users", users_columns=(("u", USER), ("i", ITEM))),
    dataset_spec(users_source="users", users_columns=(("u", USER), ("t", TIME))),
    dataset_spec(users_source="users", users_columns=(("age", NUMBER),)),
    dataset_spec(max_invalid_share=1.5),
    dataset_spec(max_invalid_share=float("nan")),
    model_spec("d", window_start=5, window_end=5),
    model_spec("d", window_start=6, window_end=5),
    model_spec("d", window_start=2**60),
    model_spec("d", refresh_every_seconds=0),
    model_spec("d", refresh_window_seconds=60),
    configured_spec("m", sizes=()),
    configured_spec("m", sizes=tuple(AudienceSize(SizeType.ABSOLUTE, n) for n in range(1, 27))),
    configured_spec("m", sizes=sizes("5%", "5%")),
    configured_spec("m", sizes=sizes("5%", "5000")),
    configured_spec("m", sizes=sizes("0.5%")),
    configured_spec("m", sizes=sizes("20000001")),
    configured_spec("m", output_url=""),
    job_spec("c", seed_digest="not hex at all!!"),
    job_spec("c", seed_digest=""),
    job_spec("c", seed_digest=None),
    requesting(),
    requesting(s3_uri="s3://b/k", query="SELECT 1"),
    requesting(query="SELECT 1", template_arn="arn"),
    requesting(s3_uri=""),
    requesting(s3_uri="s3://b/a\nb"),
    requesting(query=" \n"),
    requesting(query="x" * 500_001),
    requesting(query="SELECT '\0'"),
    requesting(query="SELECT '\udc00'"),
    requesting(template_arn="x" * 201),
    requesting(s3_uri="s3://b/k", parameters={"a": "1"}),
    requesting(s3_uri="s3://b/k", protected_query_id=UUID),
    requesting(query="SELECT 1", protected_query_id=UUID.upper()),
    requesting(query="SELECT 1", parameters={str(n): "" for n in range(101)}),
    requesting(query="SELECT 1", parameters={"x" * 101: ""}),
    requesting(query="SELECT 1", parameters={"a": "x" * 1001}),
    requesting(query="SELECT 1", parameters={"a": "\0"}),
    job_spec("c", seed_bytes=-1),
    job_spec("c", seed_location="a\nb"),
    job_spec("c", export_size=AudienceSize.parse("2.5%")),
    ExportJobSpec(name="e", generation_job_id="j", size=AudienceSize.parse("20000001")),
]


def test_invalid_specs_are_rejected() -> None:
    assert accepted_of(REJECTED, lambda spec: spec.validate()) == []


def test_errors_do_not_quote_a_requested_seed() -> None:
    for fields in (
        {"s3_uri": "s3://canary/canary", "query": "SELECT canary"},
        {"s3_uri": "s3://canary/\0"},
        {"query": "SELECT canary\0"},
        {"query": "SELECT canary", "protected_query_id": "canary"},
        {"query": "SELECT canary", "parameters": {"canary": "canary" * 1000}},
        {"template_arn": "canary" * 50},
    ):
        spec = requesting(**fields)
        with pytest.raises(UsageError) as caught:
            spec.validate()
        assert "canary" not in "".join(traceback.format_exception(caught.value))
        assert "canary" not in repr(caught.value.attributes)
    assert "s3://" not in repr(requesting(s3_uri="s3://canary/canary"))


def test_later_fields_keep_older_digests() -> None:
    """Else `apply` would take every declaration of an older home for a changed one."""
    job, export = job_spec("c", export_size="largest"), export_spec("j")
    assert spec_digest(job) == "16ed2f12742a227146ae7f4c038c1a75572b33cf55d72f0b25ac88acca761413"
    assert spec_digest(export) == "04207074455cad5f615afeb7f67f84a1baa416fa025e271666dcb411706deb92"
    assert spec_digest(requesting(s3_uri="s3://b/k")) != spec_digest(requesting(s3_uri="s3://b/l"))


def test_equal_declarations_have_equal_digests() -> None:
    first = dataset_spec(tags={"a": "1", "b": "2"})
    assert spec_digest(first) == spec_digest(dataset_spec(tags={"b": "2", "a": "1"}))
    assert spec_digest(first) == spec_digest(pickle.loads(pickle.dumps(first)))


def test_different_declarations_have_different_digests() -> None:
    pairs = [
        (dataset_spec(), dataset_spec(source="elsewhere")),
        (dataset_spec(), dataset_spec(columns=COLUMNS[:2])),
        (dataset_spec(), dataset_spec(tags={"a": "1"})),
        (configured_spec("m"), configured_spec("m", sizes=sizes("1%"))),
        (job_spec("c"), job_spec("c", export_size="largest")),
    ]
    assert [pair for pair in pairs if spec_digest(pair[0]) == spec_digest(pair[1])] == []


def test_spec_names_its_parent() -> None:
    assert TrainingDatasetSpec.parent_kind is None
    assert dataset_spec().parent_id is None
    assert AudienceModelSpec.parent_kind is TrainingDatasetSpec.kind
    assert [
        spec.parent_id for spec in (model_spec("d"), configured_spec("m"), job_spec("c"), export_spec("j"))
    ] == [
        "d",
        "m",
        "c",
        "j",
    ]
