"""Data labs: a publisher brings a base audience and has it validated before it goes into a data room.

Lives here: `DataLab` and its builder.
Add here when a base audience gets a further dataset.
Keep out: validating (the server) and data rooms (`media.py`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.compute_job import DataLabValidationJob
from cleanroom_pipelines.media.errors import (
    InvalidRequestError,
    JobFailedError,
    NotProvisionedError,
    NotValidatedError,
)
from cleanroom_pipelines.media.protocol import Method
from cleanroom_pipelines.media.validation_reports import ValidationReports
from cleanroom_pipelines.terms import MatchingId


class DataLab:
    """A publisher's datasets, to be validated before they go into a data room; `DataLabBuilder` makes one.

    Args:
        client: Whose it is.
        name: Its name.
        matching_ids: The kinds of matching ids that it holds, at least one.
        has_demographics: Whether it holds ages and genders.
        has_segments: Whether it holds segments.
        n_embeddings: Numbers per embedding; 0 without embeddings.
        activation: Ad destinations whose hashes are to be kept, such as `google` and `meta`.
    """

    def __init__(
        self,
        client: Client,
        *,
        name: str,
        matching_ids: Iterable[MatchingId],
        has_demographics: bool = False,
        has_segments: bool = False,
        n_embeddings: int = 0,
        activation: Iterable[str] = (),
    ) -> None:
        self._client = client
        self.name = name
        self.matching_ids = list(matching_ids)
        self.has_demographics = has_demographics
        self.has_segments = has_segments
        self.n_embeddings = n_embeddings
        self.activation = list(activation)
        self._id: str | None = None

    @classmethod
    def from_existing(cls, data_lab_id: str, client: Client) -> Self:
        """Open a data lab that was made before; its datasets cannot be replaced."""
        known = client.call(Method.GET_LAB, lab_id=data_lab_id)
        lab = cls(client, name=known["name"], matching_ids=())
        lab._id = known["id"]
        return lab

    def __repr__(self) -> str:
        return f"DataLab({self.name!r})"

    @property
    def id(self) -> str:
        """Its id, by which a data room takes it.

        Raises:
            NotProvisionedError: Its datasets were not brought yet.
        """
        if self._id is None:
            raise NotProvisionedError(
                "The data lab has no datasets yet.", remedy="Call `provision_local_datasets` first."
            )
        return self._id

    def provision_local_datasets(
        self,
        matching_data_path: Any = None,
        segments_data_path: Any = None,
        demographics_data_path: Any = None,
        embeddings_data_path: Any = None,
    ) -> None:
        """Bring the datasets: whatever `Client.upload_dataset` takes, paths above all.

        Args:
            matching_data_path: User ids with their matching ids; with several kinds of them, one by kind:
                `{MatchingId.EMAIL: …, MatchingId.PHONE_NUMBER: …}`.
            segments_data_path: User ids with their segments.
            demographics_data_path: User ids with age bracket and gender.
            embeddings_data_path: User ids with a scope and the numbers of the embedding.

        Raises:
            InvalidRequestError: A dataset is missing that was announced, or one is there that was not.
        """
        matching = self._matching(matching_data_path)
        others = {
            "segments": (self.has_segments, segments_data_path),
            "demographics": (self.has_demographics, demographics_data_path),
            "embeddings": (self.n_embeddings > 0, embeddings_data_path),
        }
        for dataset, (announced, data) in others.items():
            if announced != (data is not None):
                raise InvalidRequestError(
                    f"The data lab was built {'with' if announced else 'without'} {dataset}.",
                    remedy=f"{'Bring them' if announced else 'Leave them out'}, or build it "
                    f"{'without' if announced else 'with'} them.",
                )
        datasets = {
            f"matching:{kind.value}": self._client.upload_dataset(data, matching_id=kind)
            for kind, data in matching.items()
        }
        datasets |= {
            dataset: self._client.upload_dataset(data) for dataset, (_, data) in others.items() if data is not None
        }
        known = self._client.call(
            Method.CREATE_LAB,
            name=self.name,
            matching_ids=[kind.value for kind in self.matching_ids],
            has_demographics=self.has_demographics,
            has_segments=self.has_segments,
            n_embeddings=self.n_embeddings,
            activation=self.activation,
            datasets=datasets,
        )
        self._id = known["id"]

    def run(self, timeout: float | None = None, sleep_interval: float = 1) -> Self:
        """Validate the datasets and wait for it; `is_validation_passed` and the reports say how it went.

        Args:
            timeout: Most seconds to wait; None for as long as it takes.
            sleep_interval: Most seconds between two looks.

        Raises:
            JobFailedError: There is no report, since validating itself failed.
            JobTimeoutError: It did not end in time; it goes on.
        """
        job = DataLabValidationJob(self._client, self._client.call(Method.START_LAB, lab_id=self.id))
        try:
            job.wait_for_completion(timeout, sleep_interval)
        except JobFailedError:
            # what the reports say is an answer; only without them nothing was found out
            if not self._known().get("reports"):
                raise
        return self

    @property
    def is_validation_passed(self) -> bool:
        """Whether the datasets were validated and can be used."""
        return self._id is not None and bool(self._known().get("is_validated"))

    def get_validation_report(self) -> ValidationReports:
        """The validation reports of the datasets.

        Raises:
            NotValidatedError: They were not validated yet.
        """
        return ValidationReports.from_dict(self._validated("reports"))

    def get_statistics_report(self) -> dict[str, Any]:
        """Counts of what was brought: one's own data, hence exact.

        Raises:
            NotValidatedError: It was not validated yet, or did not pass.
        """
        return dict(self._validated("statistics"))

    def _known(self) -> Mapping[str, Any]:
        known: Mapping[str, Any] = self._client.call(Method.GET_LAB, lab_id=self.id)
        return known

    def _validated(self, what: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] | None = self._known().get(what)
        if not found:
            raise NotValidatedError(f"The data lab has no {what} yet.", remedy="Call `run` first.")
        return found

    def _matching(self, data: Any) -> dict[MatchingId, Any]:
        if not isinstance(data, Mapping):
            if len(self.matching_ids) != 1 or data is None:
                raise InvalidRequestError(
                    "It is not said which file holds which matching ids.",
                    remedy="Give one file for each kind: {MatchingId.EMAIL: …}.",
                )
            return {self.matching_ids[0]: data}
        matching = {_matching_id(kind): each for kind, each in data.items()}
        if set(matching) != set(self.matching_ids):
            raise InvalidRequestError(
                "The files are not of the kinds of matching ids that the data lab was built with.",
                remedy="Give one file for each kind.",
            )
        return matching


class DataLabBuilder:
    """Puts a `DataLab` together.

    Args:
        client: Whose it will be.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._name: str | None = None
        self._matching_ids: list[MatchingId] = []
        self._has_demographics = False
        self._has_segments = False
        self._n_embeddings = 0
        self._activation: list[str] = []

    def with_name(self, name: str) -> Self:
        """Give it a name."""
        self._name = name
        return self

    def with_matching_id_format(self, *matching_id_formats: MatchingId) -> Self:
        """Say which kinds of matching ids it holds."""
        self._matching_ids = [_matching_id(each) for each in matching_id_formats]
        return self

    def with_demographics(self) -> Self:
        """It holds ages and genders."""
        self._has_demographics = True
        return self

    def with_segments(self) -> Self:
        """It holds segments."""
        self._has_segments = True
        return self

    def with_embeddings(self, num_embeddings: int) -> Self:
        """It holds embeddings of so many numbers each.

        Raises:
            InvalidRequestError: The number is no whole number from 1.
        """
        if isinstance(num_embeddings, bool) or not isinstance(num_embeddings, int) or num_embeddings < 1:
            raise InvalidRequestError(
                "The length of the embeddings cannot be used.", remedy="Give a whole number from 1."
            )
        self._n_embeddings = num_embeddings
        return self

    def with_activation(self, destinations: Iterable[str]) -> Self:
        """Let the server keep the hashes that these ad destinations need, such as `google` and `meta`."""
        self._activation = [destinations] if isinstance(destinations, str) else list(destinations)
        return self

    def build(self) -> DataLab:
        """The data lab; it is made on the server when its datasets are brought.

        Raises:
            InvalidRequestError: It has no name or no kind of matching ids.
        """
        if not self._name:
            raise InvalidRequestError("The data lab has no name.", remedy="Call `with_name`.")
        if not self._matching_ids:
            raise InvalidRequestError(
                "The data lab has no kind of matching ids.", remedy="Call `with_matching_id_format`."
            )
        return DataLab(
            self._client,
            name=self._name,
            matching_ids=self._matching_ids,
            has_demographics=self._has_demographics,
            has_segments=self._has_segments,
            n_embeddings=self._n_embeddings,
            activation=self._activation,
        )


def _matching_id(value: Any) -> MatchingId:
    try:
        return MatchingId(value)
    except ValueError:
        raise InvalidRequestError(
            "There is no such kind of matching ids.", remedy=f"Choose from: {', '.join(MatchingId)}."
        ) from None
