"""The API model equals botocore's.

Contract: exactly the 25 lookalike operations, as botocore defines them, except where AWS's documentation differs
(50 tags, the reserved prefix, relevance from -1 to 1); every pattern matches as in AWS and is fast on any text; a
missing or old botocore is a ConfigurationError that names the package to install.
"""

import re
import sys
from collections.abc import Iterator
from functools import partial

import botocore.model
import pytest
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader

from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.aws.model import Shape, operations
from cleanroom_pipelines.errors import ConfigurationError

from ..cases import assert_each
from ..efforts import effort
from .requests import operation_model

_TEMPLATE = "arn:aws:cleanrooms:us-east-1:123456789012:membership/m"
DIFFERING_LIMITS = {
    ("TagMap", "max"),
    ("RelevanceMetricScoreDouble", "min"),
    ("RelevanceMetricScoreDouble", "max"),
}


def pairs(ours: Shape, theirs: botocore.model.Shape) -> Iterator[tuple[Shape, botocore.model.Shape]]:
    """Yield each of our shapes with botocore's."""
    yield ours, theirs
    if isinstance(theirs, botocore.model.StructureShape):
        assert list(ours.members) == list(theirs.members)
        for name, member in theirs.members.items():
            yield from pairs(ours.members[name].shape, member)
    elif isinstance(theirs, botocore.model.ListShape):
        assert ours.element is not None
        yield from pairs(ours.element, theirs.member)
    elif isinstance(theirs, botocore.model.MapShape):
        assert ours.element is not None
        assert ours.key is not None
        yield from pairs(ours.key, theirs.key)
        yield from pairs(ours.element, theirs.value)


def patterned() -> dict[str, Shape]:
    found = {}
    for name in OPERATIONS:
        for ours, _ in pairs(operations()[name].input, operation_model(name).input_shape):
            if ours.pattern:
                found[ours.name] = ours
    return found


def test_the_25_lookalike_operations() -> None:
    assert len(OPERATIONS) == 25
    assert operations().keys() == OPERATIONS.keys()
    assert {name for name in OPERATIONS if "Trained" in name or "Algorithm" in name or "Channel" in name} == set()


def test_an_operation_matches_botocore() -> None:
    def is_botocores(name: str) -> None:
        ours, theirs = operations()[name], operation_model(name)
        assert (ours.name, ours.method, ours.status) == (name, theirs.http["method"], theirs.http["responseCode"])
        assert "/" + "/".join(ours.segments) == theirs.http["requestUri"]
        assert list(ours.errors) == [shape.name for shape in theirs.error_shapes]
        shapes = list(pairs(ours.input, theirs.input_shape))
        assert (ours.output is None) == (theirs.output_shape is None)
        if ours.output is not None:
            shapes += pairs(ours.output, theirs.output_shape)
        for our, their in shapes:
            assert (our.name, our.kind) == (their.name, their.type_name)
            assert our.pattern == their.metadata.get("pattern")
            assert list(our.choices) == list(their.metadata.get("enum", []))
            for limit, value in (("min", our.minimum), ("max", our.maximum)):
                if (our.name, limit) not in DIFFERING_LIMITS:
                    assert value == their.metadata.get(limit)
            if isinstance(their, botocore.model.StructureShape):
                assert our.is_union == their.is_tagged_union
                assert [n for n, m in our.members.items() if m.is_required] == sorted(
                    their.required_members, key=list(their.members).index
                )
                for member in our.members.values():
                    serialized = their.members[member.name].serialization
                    assert member.wire_name == serialized.get("name", member.name)
                    assert member.location == serialized.get("location", "body")

    assert_each(is_botocores, OPERATIONS)


def test_limits_from_the_documentation_only() -> None:
    create, get = operations()["CreateTrainingDataset"], operations()["GetAudienceGenerationJob"]
    tags = create.input.members["tags"].shape
    assert tags.maximum == 50
    assert tags.key is not None
    assert tags.key.reserved_prefix == "aws:"
    assert get.output is not None
    relevance = get.output.members["metrics"].shape.members["relevanceMetrics"].shape.element
    assert relevance is not None
    score = relevance.members["score"].shape
    assert (score.minimum, score.maximum) == (-1, 1)


TEXTS = [
    ("NameString", "plain", True),
    ("NameString", "😀", True),
    ("NameString", "tab\there", True),
    ("NameString", " \t ", False),
    ("NameString", "\u00a0", True),
    ("NameString", "line\n", False),
    ("NameString", "\n", False),
    ("NameString", "bell\x07", False),
    ("NameString", "￾", False),
    ("ResourceDescription", "", True),
    ("ResourceDescription", "two\r\nlines 😀", True),
    ("ResourceDescription", "nul\0", False),
    ("AccountId", "123456789012", True),
    ("AccountId", "123456789012\n", False),
    ("AccountId", "١٢٣٤٥٦٧٨٩٠١٢", False),
    ("GlueTableName", "inter actions-2024", True),
    ("GlueTableName", "a", True),
    ("GlueTableName", "a-b", False),
    ("GlueTableName", "aa-b", True),
    ("GlueTableName", "aa--b", False),
    ("GlueTableName", "aa-", False),
    ("GlueTableName", "../x", False),
    ("GlueDatabaseName", "shop eu", False),
    ("S3Path", "s3://bucket/key", True),
    ("S3Path", "file:///x", False),
    ("S3Path", "s3://", False),
    ("S3Path", "s3://b/k\n", False),
    ("TrainingDatasetArn", "arn:aws:cleanrooms-ml:us-east-1:123456789012:training-dataset/a/../b", True),
    ("TrainingDatasetArn", "arn:aws:cleanrooms-ml:us-east-1:123456789012:audience-model/a", False),
    ("TrainingDatasetArn", "xarn:aws:cleanrooms-ml:us-east-1:123456789012:training-dataset/a", False),
    ("AnalysisTemplateArn", f"{_TEMPLATE}/analysistemplate/a_b-1", True),
    ("AnalysisTemplateArn", f"{_TEMPLATE}/analysistemplate/\u00fc", False),
    ("AnalysisTemplateArn", f"{_TEMPLATE}/analysistemplate/\u0661", False),
    ("UUID", "0123ABCD-0123-4abc-8def-0123456789ab", False),
]


def test_a_pattern_matches_as_in_aws() -> None:
    shapes = patterned()

    def is_meant(shape: str, text: str, is_right: bool) -> None:
        matches = shapes[shape].matches
        assert matches is not None
        assert bool(matches(text)) == is_right

    assert_each(is_meant, TEXTS)


def test_no_pattern_is_slow_on_any_text() -> None:
    def is_quick(_: str, shape: Shape) -> None:
        assert shape.matches is not None
        assert shape.maximum is not None, "an unbounded text must not meet a pattern"
        for prefix in ("", "arn:aws:cleanrooms-ml:us-east-1:123456789012:"):
            for unit in ("a", " ", "-", "a-", "a -", "aa", "/", "a/", "0", ".", "\t", "é"):
                short, long = (partial(shape.matches, f"{prefix}{unit * n}\0") for n in (2_000, 20_000))
                # a square would show as a hundredfold and an exponent as for ever
                assert effort(long) < 40 * max(effort(short), least)

    least = effort(partial(re.compile(".*").fullmatch, "a" * 2_000))
    assert_each(is_quick, patterned().items())


@pytest.fixture
def unread() -> Iterator[None]:
    """Clear the model's cache before and after a test."""
    operations.cache_clear()
    yield
    operations.cache_clear()


@pytest.mark.usefixtures("unread")
def test_botocore_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.loaders", None)
    with pytest.raises(ConfigurationError, match=r"cleanroom-pipelines\[api\]"):
        operations()


@pytest.mark.usefixtures("unread")
def test_botocore_lacks_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise UnknownServiceError(service_name="cleanroomsml", known_service_names="")

    monkeypatch.setattr(Loader, "load_service_model", unknown)
    with pytest.raises(ConfigurationError, match=r"cleanroom-pipelines\[api\]"):
        operations()


@pytest.mark.usefixtures("unread")
def test_botocore_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*_: object) -> dict[str, object]:
        return {"operations": {"CreateTrainingDataset": {}}, "shapes": {}}

    monkeypatch.setattr(Loader, "load_service_model", old)
    with pytest.raises(ConfigurationError, match="lacks GetTrainingDataset"):
        operations()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ("NameString", {"pattern": "(?<name>x"}),
        ("NameString", {"type": "document"}),
        ("CreateAudienceModelRequest", {"payload": "name"}),
    ],
    ids=["pattern", "type", "payload"],
)
def test_botocore_is_not_supported(monkeypatch: pytest.MonkeyPatch, shape: str, change: dict[str, str]) -> None:
    load = Loader.load_service_model

    def changed(loader: Loader, *names: str) -> dict[str, object]:
        model = dict(load(loader, *names))
        model["shapes"] = {**model["shapes"], shape: {**model["shapes"][shape], **change}}
        return model

    monkeypatch.setattr(Loader, "load_service_model", changed)
    with pytest.raises(ConfigurationError, match=f"describes {shape}"):
        operations()


@pytest.mark.usefixtures("unread")
def test_a_file_in_the_users_folder_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    load = Loader.load_service_model

    def watched(loader: Loader, *names: str) -> object:
        seen.append(loader.search_paths)
        return load(loader, *names)

    monkeypatch.setattr(Loader, "load_service_model", watched)
    operations()
    assert seen == [[Loader.BUILTIN_DATA_PATH]]
