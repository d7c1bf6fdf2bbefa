"""Jobs: what a data room works out, and waiting for it.

Lives here: one class per kind of job, all of them started when they are made.
Add here when the server gets a further kind of job.
Keep out: what an answer looks like (`results.py`) and working it out (the server).
"""

import csv
import gzip
import hashlib
import io
import logging
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, NoReturn, Self, TypeVar, cast

from cleanroom_pipelines.media.api import CustomAudience, SeedAudience, ValidationReport
from cleanroom_pipelines.media.audience_statistics_result import LalAudienceStatistics
from cleanroom_pipelines.media.audiences import Audiences
from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.errors import (
    DownloadDamagedError,
    InvalidRequestError,
    JobAlreadyStartedError,
    JobFailedError,
    JobTimeoutError,
    ServerUnavailableError,
    job_failure,
)
from cleanroom_pipelines.media.protocol import JobKind, JobStatus, Method, error_from_dict
from cleanroom_pipelines.media.results import (
    AudienceSize,
    DataAttributes,
    Insights,
    OverlapStatistics,
    UserListDelivery,
    UserListFile,
)
from cleanroom_pipelines.media.validation_reports import ValidationReports

_Answer = TypeVar("_Answer")
_LOG = logging.getLogger(__name__)
_FIRST_SLEEP_SECONDS = 0.05
_MOST_DOWNLOADS = 3
_SPOOLED_BYTES = 64 << 20


class MediaComputeJob(ABC, Generic[_Answer]):
    """Something that the server works out; it was started when this object was made.

    Args:
        client: Who asks.
        state: What the server told when it started the job.
    """

    kind: ClassVar[JobKind]

    def __init__(self, client: Client, state: Mapping[str, Any]) -> None:
        self._client = client
        self._state = state
        self._answers: list[_Answer] = []
        self._raw: Any = None

    @classmethod
    def start(
        cls,
        client: Client,
        dcr_id: str,
        *,
        audience: Mapping[str, Any] | None = None,
        definition: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Start a job of this kind.

        Args:
            client: Who asks.
            dcr_id: The data room.
            audience: The audience it is about, as a reference.
            definition: An audience that was not saved, as a definition.
            options: What else the kind of job can be told.
        """
        state = client.call(
            Method.START_JOB,
            room_id=dcr_id,
            kind=cls.kind.value,
            audience=audience,
            definition=definition,
            options=dict(options or {}),
        )
        return cls(client, state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self._state['status']}{self._standing()})"

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self._state["id"])

    @property
    def status(self) -> JobStatus:
        """How far the job is now."""
        return JobStatus(self._now()["status"])

    @property
    def progress(self) -> float:
        """The share that is done now, 0 to 1."""
        return float(self._now().get("progress") or 0.0)

    @property
    def stage(self) -> str | None:
        """What is being done now, in words."""
        stage = self._now().get("stage")
        return None if stage is None else str(stage)

    @property
    def place(self) -> int | None:
        """The place in the server's queue now, 1 being next; None if the job does not wait there."""
        place = self._now().get("place")
        return None if place is None else int(place)

    def run(self) -> NoReturn:
        """Nothing is left to do: the job was started when it was made.

        Raises:
            JobAlreadyStartedError: Always.
        """
        raise JobAlreadyStartedError(
            "The job was started when it was made.", remedy="Call `wait_for_completion` and `result`."
        )

    def is_complete(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.status is not JobStatus.RUNNING

    def cancel(self) -> None:
        """Ask for the job to stop; one that has ended stays as it is."""
        if self._state["status"] == JobStatus.RUNNING:
            self._state = self._client.call(Method.CANCEL_JOB, job_id=self.id)

    def wait_for_completion(self, timeout: float | None = None, sleep_interval: float = 1) -> Self:
        """Wait until the job has ended well; stage and place in the queue are logged as they change.

        Args:
            timeout: Most seconds to wait; None for as long as it takes.
            sleep_interval: Most seconds between two looks; the first ones follow each other faster.

        Raises:
            JobFailedError: The job ended without a result. The error is also what stopped the job, such as
                TooFewUsersError.
            JobTimeoutError: The job did not end in time; it goes on.
        """
        if sleep_interval < 0:
            raise InvalidRequestError("The time between two looks is negative.", remedy="Give seconds from 0.")
        end = None if timeout is None else time.monotonic() + timeout
        pause, said = min(_FIRST_SLEEP_SECONDS, sleep_interval), ""
        while not self.is_complete():
            left = pause if end is None else end - time.monotonic()
            if left <= 0:
                raise JobTimeoutError(
                    f"The job did not end in the time that was given; it goes on{self._standing()}.",
                    remedy="Wait again, or cancel it.",
                )
            if (standing := self._standing()) != said:
                said = standing
                _LOG.info("The job is not done%s.", standing)
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, sleep_interval)
        if self._state["status"] == JobStatus.FAILED:
            raise self._failure()
        return self

    def result(self) -> _Answer:
        """The answer; waits for it if the job still runs.

        Raises:
            JobFailedError: The job ended without a result.
        """
        if not self._answers:
            self._answers.append(self._read(self._raw_result()))
        return self._answers[0]

    @abstractmethod
    def _read(self, raw: Any) -> _Answer:
        """The answer from what the server tells."""

    def _raw_result(self) -> Any:
        if self._raw is None:
            self.wait_for_completion()
            self._raw = self._client.call(Method.GET_JOB_RESULT, job_id=self.id)
        return self._raw

    def _now(self) -> Mapping[str, Any]:
        if self._state["status"] == JobStatus.RUNNING:
            self._state = self._client.call(Method.GET_JOB, job_id=self.id)
        return self._state

    def _standing(self) -> str:
        """Stage and place of a running job as last told, to be put behind something; empty if nothing was."""
        if self._state["status"] != JobStatus.RUNNING:
            return ""
        place = self._state.get("place")
        told = (self._state.get("stage"), f"place {place} in the queue" if place is not None else "")
        return "".join(f", {each}" for each in told if each)

    def _failure(self) -> JobFailedError:
        error = self._state.get("error")
        if isinstance(error, Mapping):
            return job_failure(error_from_dict(error))
        return JobFailedError(str(error) if error else "The job ended without a result.")


class MediaOverlapStatisticsJob(MediaComputeJob[OverlapStatistics]):
    """Works out how the seed audiences and the base audience meet."""

    kind = JobKind.OVERLAP_STATISTICS

    def _read(self, raw: Any) -> OverlapStatistics:
        return OverlapStatistics.from_dict(raw)


class MediaInsightsJob(MediaComputeJob[Insights]):
    """Works out what sets the matched users of each seed audience apart."""

    kind = JobKind.INSIGHTS

    def _read(self, raw: Any) -> Insights:
        return Insights.from_dict(raw)


class MediaDataAttributesJob(MediaComputeJob[DataAttributes]):
    """Looks up which attributes filters can be set on."""

    kind = JobKind.DATA_ATTRIBUTES

    def _read(self, raw: Any) -> DataAttributes:
        return DataAttributes.from_dict(raw)


class MediaGetAudiencesJob(MediaComputeJob[Audiences]):
    """Looks up the audiences that the caller sees."""

    kind = JobKind.AUDIENCES

    def _read(self, raw: Any) -> Audiences:
        return Audiences(
            [
                SeedAudience.from_dict(each) if each["kind"] == "seed" else CustomAudience.from_dict(each)
                for each in raw["audiences"]
            ]
        )


class MediaEstimateAudienceSizeJob(MediaComputeJob[int | None]):
    """Works out how many users an audience has; None where that is hidden, or too few to be told."""

    kind = JobKind.AUDIENCE_SIZE

    def details(self) -> AudienceSize:
        """The size with its noise, or why there is none; waits for it if the job still runs."""
        return AudienceSize.from_dict(self._raw_result())

    def _read(self, raw: Any) -> int | None:
        return AudienceSize.from_dict(raw).size


class MediaLookalikeAudienceStatisticsJob(MediaComputeJob[LalAudienceStatistics]):
    """Works out how well a lookalike audience's ranking finds seed users that it was not shown."""

    kind = JobKind.LOOKALIKE_STATISTICS

    def _read(self, raw: Any) -> LalAudienceStatistics:
        return LalAudienceStatistics.from_dict(raw)


class MediaBaseAudienceValidationReportsJob(MediaComputeJob[ValidationReports]):
    """Fetches the validation reports of the base audience."""

    kind = JobKind.BASE_REPORTS

    def _read(self, raw: Any) -> ValidationReports:
        return ValidationReports.from_dict(raw)


class MediaAudiencesValidationReportJob(MediaComputeJob[ValidationReport]):
    """Fetches the validation report of the seed audiences."""

    kind = JobKind.SEEDS_REPORT

    def _read(self, raw: Any) -> ValidationReport:
        return ValidationReport.from_dict(raw)


class DataLabValidationJob(MediaComputeJob[None]):
    """Validates the datasets of a data lab."""

    kind = JobKind.LAB_VALIDATION

    def _read(self, raw: Any) -> None:
        return None


class MediaAudienceUserListJob(MediaComputeJob[list[str]]):
    """Delivers the users of an audience: their ids, or files for an advertising destination."""

    kind = JobKind.USER_LIST

    def delivery(self) -> UserListDelivery:
        """Which files there are; waits for them if the job still runs."""
        return UserListDelivery.from_dict(self._raw_result())

    def download(self, folder: str | Path) -> list[Path]:
        """Write all files of the delivery into a folder and return their paths.

        Args:
            folder: Is made if it is not there. A file of the same name is replaced, whole or not at all.

        Raises:
            DownloadDamagedError: A file is not what the server said it would send.
        """
        into = Path(folder)
        into.mkdir(parents=True, exist_ok=True)
        paths = []
        for file in self.delivery().files:
            path = into / _plain_name(file)
            with tempfile.NamedTemporaryFile(dir=into, prefix=".part-", delete=False) as draft:
                try:
                    self._fetch(file, draft)
                    draft.close()
                    Path(draft.name).replace(path)
                except BaseException:
                    Path(draft.name).unlink(missing_ok=True)
                    raise
            paths.append(path)
        return paths

    def _read(self, raw: Any) -> list[str]:
        files = [file for file in self.delivery().files if file.name.startswith("part-")]
        if not all(file.name.endswith((".csv", ".csv.gz")) for file in files):
            raise InvalidRequestError("The delivery is no plain list of ids.", remedy="Call `download`.")
        return [user for file in files for user in self._ids(file)]

    def _ids(self, file: UserListFile) -> Iterator[str]:
        with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as spooled:
            sink = cast("IO[bytes]", spooled)
            self._fetch(file, sink)
            sink.seek(0)
            with gzip.open(sink) if file.name.endswith(".gz") else nullcontext(sink) as stream:
                rows = csv.reader(io.TextIOWrapper(cast("IO[bytes]", stream), encoding="utf-8", newline=""))
                yield from (row[0] for row in rows if row)

    def _fetch(self, file: UserListFile, sink: IO[bytes]) -> None:
        for attempt in range(1, _MOST_DOWNLOADS + 1):
            sink.seek(0)
            sink.truncate()
            n_bytes, digest = 0, hashlib.sha256()
            try:
                for chunk in self._client.download(self.id, _plain_name(file)):
                    sink.write(chunk)
                    n_bytes += len(chunk)
                    digest.update(chunk)
            except ServerUnavailableError:
                # the connection broke on the way: the file is the same when it is asked for again
                if attempt == _MOST_DOWNLOADS:
                    raise
                continue
            if (n_bytes, digest.hexdigest()) == (file.n_bytes, file.sha256):
                return
            if attempt == _MOST_DOWNLOADS:
                break
        raise DownloadDamagedError(
            "A file is not what the server said it would send.", remedy="Try again, then tell the operator."
        )


JOBS: Mapping[JobKind, type[MediaComputeJob[Any]]] = {
    job.kind: job
    for job in (
        MediaOverlapStatisticsJob,
        MediaInsightsJob,
        MediaDataAttributesJob,
        MediaGetAudiencesJob,
        MediaEstimateAudienceSizeJob,
        MediaLookalikeAudienceStatisticsJob,
        MediaBaseAudienceValidationReportsJob,
        MediaAudiencesValidationReportJob,
        MediaAudienceUserListJob,
        DataLabValidationJob,
    )
}


def _plain_name(file: UserListFile) -> str:
    # a name that leads out of the folder is nothing that our server gives
    if Path(file.name).name != file.name or file.name in ("", ".", "..") or "\\" in file.name:
        raise DownloadDamagedError("A file has a name that it cannot have.", remedy="Tell the operator.")
    return file.name
