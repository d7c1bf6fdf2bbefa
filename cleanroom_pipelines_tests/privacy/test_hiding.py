"""Contract: `hide_absolute_values` removes every count about both parties from all outputs.

The counts of the room are large and unusual numbers, so that they are found as text anywhere.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pandas as pd
import pytest

from cleanroom_pipelines.audiences.attributes import data_attributes
from cleanroom_pipelines.audiences.insights import BaseFigures, ReleasedInsights, base_figures, insights
from cleanroom_pipelines.audiences.overlap import ReleasedOverlap, overlap_statistics
from cleanroom_pipelines.privacy import BudgetSpentError, Released, Releaser, budget_spent

from ..audiences.plain_rooms import PlainRoom

KEY = bytes(range(32))
N_USERS, N_MATCHED, N_IDS = 7_919, 4_327, 6_011
BOTH_SIDED = {"overlap_size", "addressable_size", "size"}
# the ± of ratios depends on the counts
ERRORS = {"affinity_error", "share_in_overlap_error", "share_in_matchable_error", "addressable_error"}


@cache
def room() -> PlainRoom:
    ids = [f"u{number}" for number in range(N_USERS)]
    users = pd.DataFrame({"user_id": ids, "age": "18-24", "gender": None, "is_relevant": True})
    segments = pd.DataFrame({"user_id": ids[:5_503], "segment": "Sport"})
    matching = pd.DataFrame({"digest": ids, "user_id": ids})
    seeds = pd.DataFrame({"digest": [*ids[:N_MATCHED], *[f"j{n}" for n in range(N_IDS - N_MATCHED)]]})
    return PlainRoom(users, segments, matching, seeds.assign(audience_type="T"))


Outputs = tuple[ReleasedOverlap, ReleasedInsights, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Outputs]:
    """Return all outputs, with hidden or shown counts, as objects and as documents."""
    found = {}
    with room().opened(tmp_path_factory.mktemp("room")) as relations:
        for hide in (True, False):
            releaser = Releaser(KEY, "v", hide)
            overlap = overlap_statistics(relations, releaser)
            figures = base_figures(relations, releaser, "salt")
            # As in a room: told from the artifact, which knows no hiding.
            figures = BaseFigures.from_dict(json.loads(json.dumps(figures.as_dict())), is_hidden=hide)
            table = insights(relations, releaser, figures, "salt")
            size = releaser.count(N_MATCHED, question="q")
            answers = [table, data_attributes(relations), size]
            documents = [overlap.as_dict(with_own_counts=False), *(answer.as_dict() for answer in answers)]
            found[hide] = overlap, table, documents
    return found.__getitem__


def values_below(document: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict):
        for name, value in document.items():
            # What the policy says of itself is no count.
            yield from [] if name == "noise" else values_below(value, name)
    elif isinstance(document, list):
        for value in document:
            yield from values_below(value, key)
    else:
        yield key, document


def released_below(value: Any) -> Iterator[Released]:
    if isinstance(value, Released):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from released_below(each)
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from released_below(getattr(value, each.name))


def test_no_output_contains_a_count(outputs: Callable[[bool], Outputs]) -> None:
    told_overlap, told_table, told_documents = outputs(False)
    overlap, table, documents = outputs(True)
    counts = {str(each.value) for each in [*released_below(told_overlap), *released_below(told_table)]}
    counts |= {str(N_USERS), str(N_MATCHED), "5503"}
    assert len(counts) > 6

    def found(texts: list[str]) -> set[str]:
        return counts & set(re.findall(r"\d+", " ".join(texts)))

    # So that the search can find something: where counts are told, it does.
    assert len(found([json.dumps(each) for each in told_documents])) >= 3
    assert not found([json.dumps(each) for each in documents])
    assert not found([repr(overlap.rows[0].overlap), repr(table), *map(repr, table.audiences[0].rows)])
    assert not found([repr(document) for document in documents])
    assert not found([repr(each) for each in [*released_below(overlap), *released_below(table)]])


def test_all_counts_about_both_parties_are_null(
    outputs: Callable[[bool], Outputs],
) -> None:
    _, _, documents = outputs(True)
    _, _, told = outputs(False)
    values = [pair for document in documents for pair in values_below(document)]
    assert {key for key, _ in values} >= BOTH_SIDED
    assert all(value is None for key, value in values if key in BOTH_SIDED | ERRORS)
    assert not [key for key, value in values if isinstance(value, int) and not isinstance(value, bool)]
    assert any(isinstance(value, int) for document in told for key, value in values_below(document))


def test_ratios_and_decisions_remain_and_are_the_same(outputs: Callable[[bool], Outputs]) -> None:
    _, _, hidden = outputs(True)
    _, _, told = outputs(False)

    def others(documents: list[dict[str, Any]]) -> list[tuple[str, Any]]:
        pairs = [pair for document in documents for pair in values_below(document)]
        return [(key, value) for key, value in pairs if key not in {*BOTH_SIDED, *ERRORS, "reason"}]

    assert others(hidden) == others(told)
    (share,) = {value for key, value in others(hidden) if key == "share_in_matchable" and value < 1}
    assert share == pytest.approx(5_503 / N_USERS, abs=0.02)
    assert [value for key, value in others(hidden) if key == "is_empty"] == [False]


def test_a_provider_still_sees_its_own_counts(outputs: Callable[[bool], Outputs]) -> None:
    overlap, _, _ = outputs(True)
    (mine,) = overlap.as_dict(with_own_counts=True)["rows"]
    (others,) = overlap.as_dict(with_own_counts=False)["rows"]
    assert mine["advertiser_size"] == N_IDS
    assert mine["match_rate"] == pytest.approx(N_MATCHED / N_IDS, abs=0.02)
    # Rate and size together would tell how many ids the advertiser brought.
    assert (others["advertiser_size"], others["match_rate"]) == (None, None)


def test_errors_mention_only_the_budget() -> None:
    error = budget_spent(total=1_000, spent=950, cost=100)
    assert isinstance(error, BudgetSpentError)
    assert set(re.findall(r"\d+", f"{error} {error!r} {error.attributes}")) == {"5", "10", "95", "100"}
