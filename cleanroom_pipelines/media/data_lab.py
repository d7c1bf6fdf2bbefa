"""Data labs, in which a publisher validates a base audience before provisioning it to a data room.

Lives here: `DataLab`, its builder and its reports.
Add here when a base audience gets another dataset.
Keep out: validation (the server) and data rooms (`media.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

from cleanroom_pipelines.media.api import IdType
from cleanroom_pipelines.media.api import matching_id as as_matching_id
from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.compute_job import RESULT_SECONDS, DataLabValidationJob
from cleanroom_pipelines.media.connecting import Key
from cleanroom_pipelines.media.errors import (
    InvalidRequestError,
    JobFailedError,
    NotProvisionedError,
    NotValidatedError,
)
from cleanroom_pipelines.media.protocol import Method
from cleanroom_pipelines.media.validation_reports import ValidationReports
from cleanroom_pipelines.terms import CollaborationType, MatchingId


class DataLabDatasetType(Enum):
    """The kinds of datasets in a data lab."""

    EMBEDDINGS = 1
    DEMOGRAPHICS = 2
    MATCH = 3
    SEGMENTS = 4

    @property
    def key(self) -> str:
        """The dataset's name in requests to the server."""
        return "matching" if self is DataLabDatasetType.MATCH else self.name.lower()


@dataclass(frozen=True)
class IdentifiersConfig:
    """A kind of ids in a data lab.

    Args:
        id_name: Its name; free text.
        id_type: Its type.
        is_matching_id: Whether both sides match by it.
        is_activation_id: Whether exported lists contain it; possible for user ids and ids of `with_activation`.
    """

    id_name: str
    id_type: IdType
    is_matching_id: bool
    is_activation_id: bool


class DataLabReports(dict[str, Any]):
    """The validation reports of a data lab as a dictionary by dataset, with the attributes of `ValidationReports`.

    Args:
        reports: The reports.
    """

    def __init__(self, reports: ValidationReports) -> None:
        super().__init__(reports.model_dump())
        self.reports = reports

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reports, name)


class _Outcome:
    """Whether validation passed: use it as a bool, or call it to check a given report."""

    def __init__(self, lab: "DataLab") -> None:
        self._lab = lab

    def __bool__(self) -> bool:
        return self._lab.is_validated

    def __repr__(self) -> str:
        return repr(bool(self))

    def __call__(self, validation_report: Any = None) -> bool:
        report = self._lab.get_validation_report() if validation_report is None else validation_report
        if isinstance(report, Mapping) and not isinstance(report, DataLabReports):
            return ValidationReports.from_dict(report).passed
        return bool(report.passed)


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
        self._datasets: dict[str, str] = {}
        self._replaced_id: str | None = None

    @classmethod
    def from_existing(cls, data_lab_id: str, client: Client) -> Self:
        """Open an existing data lab."""
        known = client.call(Method.GET_LAB, lab_id=data_lab_id)
        datasets: dict[str, str] = known.get("datasets") or {}
        lab = cls(
            client,
            name=known["name"],
            matching_ids=[kind for kind in map(_kind_of, datasets) if kind is not None],
            has_demographics="demographics" in datasets,
            has_segments="segments" in datasets,
            n_embeddings=known.get("n_embeddings", 0),
            activation=known.get("activation", ()),
        )
        lab._id, lab._datasets = known["id"], dict(datasets)
        return lab

    def __repr__(self) -> str:
        return f"DataLab({self.name!r})"

    @property
    def id(self) -> str:
        """The data lab's id, which is needed to provision the lab to a data room.

        Raises:
            NotProvisionedError: A declared dataset has not been provisioned yet.
        """
        if self._id is None:
            self._check(self._datasets, NotProvisionedError)
            self._id = self._create()
        return self._id

    def provision_local_datasets(
        self,
        key: Any = None,
        matching_data_path: Any = None,
        segments_data_path: Any = None,
        demographics_data_path: Any = None,
        embeddings_data_path: Any = None,
        *,
        secret_store_options: object = None,
    ) -> None:
        """Upload the datasets; each may be a path or any other form that `Client.upload_dataset` accepts.

        Args:
            key: A `Key` or None, which is ignored: the server encrypts uploads with its own keys.
            matching_data_path: User ids with their matching ids; for several kinds, one dataset per kind:
                `{MatchingId.EMAIL: …, MatchingId.PHONE_NUMBER: …}`.
            segments_data_path: User ids with their segments.
            demographics_data_path: User ids with age bracket and gender.
            embeddings_data_path: User ids with a scope and the numbers of the embedding.
            secret_store_options: Ignored.

        Raises:
            InvalidRequestError: A declared dataset is missing, or an undeclared one was given.
        """
        if isinstance(key, str | Path | Mapping):
            raise InvalidRequestError(
                "The first argument is the key, not a dataset.",
                remedy="Give datasets as keyword arguments, or after a `Key`.",
            )
        data = {f"matching:{kind}": each for kind, each in self._matching(matching_data_path).items()}
        others = {
            "segments": segments_data_path,
            "demographics": demographics_data_path,
            "embeddings": embeddings_data_path,
        }
        data |= {dataset: each for dataset, each in others.items() if each is not None}
        self._check(data, InvalidRequestError)
        self._reopen()
        self._datasets = {
            name: self._client.upload_dataset(each, key, matching_id=_kind_of(name)) for name, each in data.items()
        }
        self._id = self._create()

    def provision_dataset(self, manifest_hash: str, key: Key | None, dataset_type: DataLabDatasetType) -> None:
        """Use an uploaded file as one of the datasets; `run` or `id` creates the data lab from all of them.

        Args:
            manifest_hash: The hash that `Client.upload_dataset` returned.
            key: Ignored; the server encrypts uploads with its own keys.
            dataset_type: The dataset.
        """
        self._reopen()
        name = DataLabDatasetType(dataset_type).key
        if dataset_type is DataLabDatasetType.MATCH:
            kind = getattr(manifest_hash, "matching_id", None) or self._only_matching_id()
            name = f"matching:{kind}"
        self._datasets[name] = str(manifest_hash)

    def deprovision_dataset(self, dataset_type: DataLabDatasetType) -> None:
        """Remove a dataset. Removing the matching ids deletes the data lab; other changes take effect with `run`.

        Args:
            dataset_type: The dataset.
        """
        self._reopen()
        key = DataLabDatasetType(dataset_type).key
        self._datasets = {name: each for name, each in self._datasets.items() if name.partition(":")[0] != key}
        if dataset_type is DataLabDatasetType.MATCH:
            self._delete_replaced()

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
    def is_validated(self) -> bool:
        """Whether the datasets passed validation."""
        return self._id is not None and bool(self._known().get("is_validated"))

    @property
    def is_validation_passed(self) -> _Outcome:
        """Whether the datasets passed validation; `is_validation_passed(report)` checks a report."""
        return _Outcome(self)

    def get_validation_report(self, timeout: float | None = RESULT_SECONDS) -> DataLabReports:
        """Return the validation reports of the datasets, validating them first if necessary.

        Args:
            timeout: Longest time to wait, in seconds; None for no limit.
        """
        return DataLabReports(ValidationReports.from_dict(self._validated("reports", timeout)))

    def get_statistics_report(self, timeout: float | None = RESULT_SECONDS) -> dict[str, Any]:
        """Return counts of the uploaded data; they are exact, since the data is the caller's own.

        Args:
            timeout: Longest time to wait for the validation, in seconds; None for no limit.

        Raises:
            NotValidatedError: The data lab failed validation.
        """
        return dict(self._validated("statistics", timeout))

    def _known(self) -> Mapping[str, Any]:
        known: Mapping[str, Any] = self._client.call(Method.GET_LAB, lab_id=self.id)
        return known

    def _validated(self, what: str, timeout: float | None) -> Mapping[str, Any]:
        found: Mapping[str, Any] | None = self._known().get(what)
        if not found:
            self.run(timeout)
            found = self._known().get(what)
        if not found:
            raise NotValidatedError(f"The data lab has no {what}.", remedy="See its validation reports.")
        return found

    def _check(self, datasets: Mapping[str, Any], error: type[InvalidRequestError | NotProvisionedError]) -> None:
        """Check that the given datasets are exactly those that the data lab was built for."""
        declared = {
            "segments": self.has_segments,
            "demographics": self.has_demographics,
            "embeddings": self.n_embeddings > 0,
        }
        if any(f"matching:{kind}" not in datasets for kind in self.matching_ids):
            raise error("The data lab has no datasets yet.", remedy="Call `provision_local_datasets` first.")
        for dataset, is_declared in declared.items():
            if is_declared != (dataset in datasets):
                raise error(
                    f"The data lab was built {'with' if is_declared else 'without'} {dataset}.",
                    remedy=f"{'Provide' if is_declared else 'Omit'} the {dataset}, or build the data lab "
                    f"{'without' if is_declared else 'with'} them.",
                )

    def _reopen(self) -> None:
        """Mark the data lab as changed, so that the next use of `id` replaces it with a new data lab."""
        if self._id is not None:
            self._replaced_id, self._id = self._id, None

    def _delete_replaced(self) -> None:
        if self._replaced_id is not None:
            self._client.call(Method.DELETE_LAB, lab_id=self._replaced_id)
            self._replaced_id = None

    def _create(self) -> str:
        known = self._client.call(
            Method.CREATE_LAB,
            name=self.name,
            matching_ids=[kind.value for kind in self.matching_ids],
            has_demographics=self.has_demographics,
            has_segments=self.has_segments,
            n_embeddings=self.n_embeddings,
            activation=self.activation,
            datasets=self._datasets,
        )
        self._delete_replaced()
        return str(known["id"])

    def _only_matching_id(self) -> MatchingId:
        if len(self.matching_ids) != 1:
            raise InvalidRequestError(
                "The file's kind of matching ids is missing.", remedy="Give `matching_id` in `upload_dataset`."
            )
        return self.matching_ids[0]

    def _matching(self, data: Any) -> dict[MatchingId, Any]:
        if not isinstance(data, Mapping):
            if len(self.matching_ids) != 1 or data is None:
                raise InvalidRequestError(
                    "The files' kinds of matching ids are missing.",
                    remedy="Give one file for each kind: {MatchingId.EMAIL: …}.",
                )
            return {self.matching_ids[0]: data}
        matching = {as_matching_id(kind): each for kind, each in data.items()}
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
        self._existing_id: str | None = None

    def with_name(self, name: str) -> Self:
        """Set the data lab's name."""
        self._name = name
        return self

    def from_existing(self, data_lab_id: str) -> Self:
        """Open an existing data lab instead of a new one."""
        self._existing_id = data_lab_id
        return self

    def with_matching_id_format(self, *matching_id: MatchingId | IdType) -> Self:
        """Set the kinds of matching ids that the data lab contains.

        Raises:
            InvalidRequestError: A kind is unknown or not supported.
        """
        self._matching_ids = [as_matching_id(each) for each in matching_id]
        return self

    def with_identifiers_config(self, identifiers_config: list[IdentifiersConfig]) -> Self:
        """Set the kinds of ids that the data lab contains; upload one file for each kind that is matched.

        Raises:
            InvalidRequestError: A kind to match by is not supported, or a kind to deliver is not a user id.
        """
        if any(each.is_activation_id and each.id_type is not IdType.STRING for each in identifiers_config):
            raise InvalidRequestError(
                "Lists can contain only user ids, or hashed ids for ad destinations.",
                remedy="Deliver ids of the type `IdType.STRING`, or call `with_activation` for hashed ids.",
            )
        return self.with_matching_id_format(*(each.id_type for each in identifiers_config if each.is_matching_id))

    def with_num_identifiers_columns(self, num_identifiers_columns: int) -> Self:
        """Raise an error unless the number is 2: a file with matching ids always has two columns.

        Raises:
            InvalidRequestError: Another number was given.
        """
        if num_identifiers_columns != 2:
            raise InvalidRequestError(
                "The file with matching ids has two columns: user id and matching id.",
                remedy="Give a file for each kind of matching ids.",
            )
        return self

    def with_disable_drop_invalid_rows(self) -> Self:
        """Raise an error: invalid rows are always dropped and counted.

        Raises:
            InvalidRequestError: Always.
        """
        raise InvalidRequestError(
            "Invalid rows cannot be kept; they are dropped and counted in the report.",
            remedy="Check the report's `numInvalidRowsTotal` instead.",
        )

    def with_collaboration_types(self, collaboration_types: list[CollaborationType]) -> Self:
        """Accept and ignore the collaboration types: every validated data lab can be used for all of them."""
        del collaboration_types
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
        if self._existing_id is not None:
            return DataLab.from_existing(self._existing_id, self._client)
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


def _kind_of(name: str) -> MatchingId | None:
    kind = name.partition(":")[2]
    return MatchingId(kind) if kind else None
