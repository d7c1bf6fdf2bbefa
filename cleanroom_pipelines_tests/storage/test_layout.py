"""Contract: user input never becomes part of a path; only the random hex of an id does, all else is rejected."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.catalog import partition_key
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.storage.layout import is_version, path_of_asset, path_of_partition, path_of_version

from ..offenders import offenders

HOSTILE = ["..", ".", "", "/", "a/b", "a\\b", "a\nb", "\0", "%2e%2e", "a-0123456789ab\n", "a-0123456789ab/..", "é"]
ANY_TEXT = st.one_of(st.text(), st.sampled_from(HOSTILE), st.from_regex(r"\A[a-z./%~-]{0,50}-[0-9a-f]{12}.?\Z"))


@given(ANY_TEXT)
@example("x" * 41 + "-0123456789ab")
@example("x-0123456789AB")
@example("x-\uff10123456789ab")
def test_partition_segment_is_twelve_hex_digits_or_rejected(text: str) -> None:
    try:
        segment = path_of_partition(text)
    except UsageError as error:
        assert len(text) < 3 or text not in str(error)
        return
    assert re.fullmatch("[0-9a-f]{12}", segment)
    assert text.endswith(segment)


@given(st.text(max_size=80))
@example("../../etc/passwd")
@example("🛒 Einkauf\n'; DROP TABLE")
def test_every_name_gives_a_key_with_a_valid_path(name: str) -> None:
    assert path_of_partition(partition_key(name, lambda n: "ab" * n)) == "ab" * 6


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_reference_is_rejected_or_stays_below_the_store(asset: str, partition: str, version: str) -> None:
    for parts in (
        (asset, partition, version),
        (asset, "x-0123456789ab", "0001-00000000"),
        ("audience", partition, "0001-00000000"),
        ("audience", "x-0123456789ab", version),
    ):
        try:
            path = PurePosixPath(ArtifactReference(*parts).path)
        except UsageError:
            continue
        assert len(path.parts) == 3
        assert all(re.fullmatch("[a-z0-9_-]+", part) for part in path.parts)


def test_invalid_asset_names_are_rejected() -> None:
    def check(text: str) -> None:
        with pytest.raises(UsageError):
            path_of_asset(text)

    assert offenders([*HOSTILE, "Audience", "a-b", "a" * 65], check) == []


def test_invalid_versions_are_rejected() -> None:
    def check(text: str) -> None:
        assert not is_version(text)
        with pytest.raises(UsageError):
            path_of_version(text)

    texts = [*HOSTILE, "1-00000000", "0001-0000000", "0001-0000000g", "0001-00000000x"]
    assert offenders(texts, check) == []


def test_versions_may_exceed_four_digits() -> None:
    assert path_of_version("12345-00000000") == "12345-00000000"
