"""Contract: the inputs of a room are named `matching:<kind>`, `segments`, …, `seeds:<kind>`; other names are
invalid."""

import pytest

from cleanroom_pipelines.identity import Dataset, InputName, inputs_of
from cleanroom_pipelines.terms import MatchingId

from ..offenders import offenders

NAMES = {
    "matching:EMAIL": InputName(Dataset.MATCHING, MatchingId.EMAIL),
    "matching:HASHED_PHONE_NUMBER": InputName(Dataset.MATCHING, MatchingId.HASHED_PHONE_NUMBER),
    "segments": InputName(Dataset.SEGMENTS),
    "demographics": InputName(Dataset.DEMOGRAPHICS),
    "embeddings": InputName(Dataset.EMBEDDINGS),
    "seeds:STRING": InputName(Dataset.SEED_AUDIENCES, MatchingId.STRING),
}
OTHERS = [
    "",
    "matching",
    "matching:",
    "matching:email",
    "segments:EMAIL",
    "seeds",
    "seed_audiences:EMAIL",
    "MATCHING",
]


def test_names_are_read_as_they_are_written() -> None:
    assert {text: InputName.parse(text) for text in NAMES} == NAMES
    assert [str(name) for name in NAMES.values()] == list(NAMES)


def test_other_names_are_rejected() -> None:
    def is_rejected(text: str) -> None:
        with pytest.raises(ValueError):
            InputName.parse(text)

    assert offenders(OTHERS, is_rejected) == []


def test_inputs_are_chosen_by_dataset() -> None:
    inputs = dict.fromkeys(NAMES, "upload")
    matching = inputs_of(inputs, Dataset.MATCHING)
    assert list(matching) == ["matching:EMAIL", "matching:HASHED_PHONE_NUMBER"]
    assert list(inputs_of(inputs, Dataset.SEED_AUDIENCES, Dataset.SEGMENTS)) == ["segments", "seeds:STRING"]
    assert inputs_of(inputs) == {}
