"""Data labs, in which a publisher validates a base audience before provisioning it to a data room.

Lives here: `DataLab` and its builder.
Add here when a base audience gets another dataset.
Keep out: validation (the server) and data rooms (`media.py`).
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
    """A publisher's datasets, validated before they are provisioned to a data room; created by `DataLabBuilder`.

    Args:
        client: The client of its owner.
        name: Its name.
        matching_ids: The kinds of matching ids that it contains, at least one.
        has_demographics: Whether it contains ages and genders.
        has_segments: Whether it contains segments.
        n_embeddings: Length of each embedding; 0 without embeddings.
        activation: Ad destinations for which hashed ids are kept, such as `google` and `meta`.
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
        """Open an existing data lab; its datasets cannot be replaced."""
        known = client.call(Method.GET_LAB, lab_id=data_lab_id)
        lab = cls(client, name=known["name"], matching_ids=())
        lab._id = known["id"]
        return lab

    def __repr__(self) -> str:
        return f"DataLab({self.name!r})"

    @property
    def id(self) -> str:
        """The data lab's id, which is needed to provision the lab to a data room.

        Raises:
            NotProvisionedError: Its datasets have not been uploaded yet.
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
        """Upload the datasets; each may be a path or any other form that `Client.upload_dataset` accepts.

        Args:
            matching_data_path: User ids with their matching ids; for several kinds, one dataset per kind:
                `{MatchingId.EMAIL: …, MatchingId.PHONE_NUMBER: …}`.
            segments_data_path: User ids with their segments.
            demographics_data_path: User ids with age bracket and gender.
            embeddings_data_path: User ids with a scope and the numbers of the embedding.

        Raises:
            InvalidRequestError: A declared dataset is missing, or an undeclared one was given.
        """
        matching = self._matching(matching_data_path)
        others = {
            "segments": (self.has_segments, segments_data_path),
            "demographics": (self.has_demographics, demographics_data_path),
            "embeddings": (self.n_embeddings > 0, embeddings_data_path),
        }
        for dataset, (declared, data) in others.items():
            if declared != (data is not None):
                raise InvalidRequestError(
                    f"The data lab was built {'with' if declared else 'without'} {dataset}.",
                    remedy=f"{'Provide' if declared else 'Omit'} the {dataset}, or build the data lab "
                    f"{'without' if declared else 'with'} them.",
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
        """Validate the datasets and wait; `is_validation_passed` and the reports show the outcome.

        Args:
            timeout: Longest time to wait, in seconds; None for no limit.
            sleep_interval: Longest time between two polls, in seconds.

        Raises:
            JobFailedError: Validation itself failed, so there is no report.
            JobTimeoutError: Validation did not finish in time; it is still running.
        """
        job = DataLabValidationJob(self._client, self._client.call(Method.START_LAB, lab_id=self.id))
        try:
            job.wait_for_completion(timeout, sleep_interval)
        except JobFailedError:
            # a negative report is a valid outcome; without any report, validation itself failed
            if not self._known().get("reports"):
                raise
        return self

    @property
    def is_validation_passed(self) -> bool:
        """Whether the datasets passed validation."""
        return self._id is not None and bool(self._known().get("is_validated"))

    def get_validation_report(self) -> ValidationReports:
        """Return the validation reports of the datasets.

        Raises:
            NotValidatedError: They have not been validated yet.
        """
        return ValidationReports.from_dict(self._validated("reports"))

    def get_statistics_report(self) -> dict[str, Any]:
        """Return counts of the uploaded data; they are exact, since the data is the caller's own.

        Raises:
            NotValidatedError: The data lab has not been validated yet, or failed validation.
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
                    "The files' kinds of matching ids are missing.",
                    remedy="Give one file for each kind: {MatchingId.EMAIL: …}.",
                )
            return {self.matching_ids[0]: data}
        matching = {_matching_id(kind): each for kind, each in data.items()}
        if set(matching) != set(self.matching_ids):
            raise InvalidRequestError(
                "The files do not match the kinds of matching ids that the data lab was built with.",
                remedy="Give one file for each kind.",
            )
        return matching


class DataLabBuilder:
    """Builder of a `DataLab`.

    Args:
        client: The client of its owner.
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
        """Set the data lab's name."""
        self._name = name
        return self

    def with_matching_id_format(self, *matching_id_formats: MatchingId) -> Self:
        """Set the kinds of matching ids that the data lab contains."""
        self._matching_ids = [_matching_id(each) for each in matching_id_formats]
        return self

    def with_demographics(self) -> Self:
        """Declare that the data lab contains ages and genders."""
        self._has_demographics = True
        return self

    def with_segments(self) -> Self:
        """Declare that the data lab contains segments."""
        self._has_segments = True
        return self

    def with_embeddings(self, num_embeddings: int) -> Self:
        """Declare that the data lab contains embeddings of a given length.

        Raises:
            InvalidRequestError: The length is not a whole number of at least 1.
        """
        if isinstance(num_embeddings, bool) or not isinstance(num_embeddings, int) or num_embeddings < 1:
            raise InvalidRequestError(
                "The length of the embeddings is invalid.", remedy="Give a whole number of at least 1."
            )
        self._n_embeddings = num_embeddings
        return self

    def with_activation(self, destinations: Iterable[str]) -> Self:
        """Keep the hashed ids that these ad destinations need, such as `google` and `meta`."""
        self._activation = [destinations] if isinstance(destinations, str) else list(destinations)
        return self

    def build(self) -> DataLab:
        """Return the data lab; the server creates it when its datasets are uploaded.

        Raises:
            InvalidRequestError: Its name or its kinds of matching ids are missing.
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
            "Unknown kind of matching ids.", remedy=f"Choose from: {', '.join(MatchingId)}."
        ) from None
