"""The datasets of a data room, and the names that identify uploads in rooms and labs.

Lives here: the enum of datasets, and `InputName` for names such as `matching:EMAIL`, `segments` or `seeds:EMAIL`.
Add here when a room accepts another dataset.
Keep out: the content of a dataset's files (`uploads`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Self

from cleanroom_pipelines.terms import MatchingId


class Dataset(StrEnum):
    """A dataset that one party of a data room provisions."""

    MATCHING = "MATCHING"
    SEGMENTS = "SEGMENTS"
    DEMOGRAPHICS = "DEMOGRAPHICS"
    EMBEDDINGS = "EMBEDDINGS"
    SEED_AUDIENCES = "SEED_AUDIENCES"

    @property
    def key(self) -> str:
        """The name used in files and protocols: "matching", "segments", …."""
        return self.value.lower()

    @property
    def has_ids(self) -> bool:
        """Whether the dataset's rows contain matching ids; an upload must then state the kind of ids."""
        return self in (Dataset.MATCHING, Dataset.SEED_AUDIENCES)


BASE_DATASETS = (Dataset.MATCHING, Dataset.SEGMENTS, Dataset.DEMOGRAPHICS, Dataset.EMBEDDINGS)
_WORDS = {dataset: "seeds" if dataset is Dataset.SEED_AUDIENCES else dataset.key for dataset in Dataset}
_DATASETS = {word: dataset for dataset, word in _WORDS.items()}


class InputName(NamedTuple):
    """The name of one upload of a room or lab.

    Attributes:
        dataset: The dataset it holds.
        matching_id: The kind of its ids, where the dataset has ids.
    """

    dataset: Dataset
    matching_id: MatchingId | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name such as `matching:EMAIL`.

        Raises:
            ValueError: The text is not the name of an input.
        """
        word, _, kind = text.partition(":")
        dataset = _DATASETS.get(word)
        if dataset is None or dataset.has_ids is not bool(kind):
            raise ValueError("not the name of an input")
        return cls(dataset, MatchingId(kind) if kind else None)

    def __str__(self) -> str:
        word = _WORDS[self.dataset]
        return f"{word}:{self.matching_id}" if self.matching_id else word


def inputs_of(inputs: Mapping[str, str], *datasets: Dataset) -> dict[str, str]:
    """Return the inputs of a room or lab that belong to the given datasets."""
    return {name: upload for name, upload in inputs.items() if InputName.parse(name).dataset in datasets}
