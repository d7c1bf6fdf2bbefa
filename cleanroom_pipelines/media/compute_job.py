"""Jobs that a data room or a data lab runs, and waiting for their results.

Lives here: one class per kind of job; creating one starts the job.
Add here when the server gets another kind of job.
Keep out: the results' types (`results.py`) and computing them (the server).
"""

import csv
import gzip
import hashlib
import io
import json
import logging
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, NoReturn, Self, TypeVar, cast

from cleanroom_pipelines.media.api import (
    USER_ID,
    ComputeInsightsResult,
    CustomAudience,
    DataAttributesResult,
    OverlapStatisticsResult,
    SeedAudience,
    ValidationReport,
)
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
from cleanroom_pipelines.media.results import SizeOfAudience, UserListDelivery, UserListFile
from cleanroom_pipelines.media.validation_reports import ValidationReports

RESULT_SECONDS = 3600.0
"""Longest time that `result` waits by default."""

_Answer = TypeVar("_Answer")
_LOG = logging.getLogger(__name__)
_FIRST_SLEEP_SECONDS = 0.05
_MOST_DOWNLOADS = 3
_SPOOLED_BYTES = 64 << 20


class MediaComputeJob(Generic[_Answer]):
    """A job that was started on the server; `start` starts a new one.

    Args:
        client: The client that started it.
        state: The state that the server returned for the job.
    """

    kind: ClassVar[JobKind]
    answer: ClassVar[Any] = None  # the class of its results, if the server's response is parsed by one

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
            client: The client that starts it.
            dcr_id: Id of the data room.
            audience: Reference to the audience that the job is about.
            definition: Definition of an unsaved audience that the job is about.
            options: Further options of this kind of job.
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
    def job_id(self) -> str:
        """The job's id."""
        return self.id

    @property
    def dcr_id(self) -> str | None:
        """The id of the data room; None for a job of a data lab."""
        room_id = self._state.get("room_id")
        return None if room_id is None else str(room_id)

    @property
    def status(self) -> JobStatus:
        """The job's current status, fetched from the server."""
        return JobStatus(self._now()["status"])

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0 to 1."""
        return float(self._now().get("progress") or 0.0)

    @property
    def stage(self) -> str | None:
        """The current stage of the work, in words."""
        stage = self._now().get("stage")
        return None if stage is None else str(stage)

    @property
    def place(self) -> int | None:
        """The job's current position in the server's queue, 1 being next; None if it is not queued."""
        place = self._now().get("place")
        return None if place is None else int(place)

    def run(self) -> NoReturn:
        """Raise an error, since jobs start when they are created.

        Raises:
            JobAlreadyStartedError: Always.
        """
        raise JobAlreadyStartedError(
            "The job was already started, because creating a job starts it.",
            remedy="Call `wait_for_completion` and `result`.",
        )

    def is_complete(self) -> bool:
        """Check whether the job has ended, successfully or not."""
        return self.status is not JobStatus.RUNNING

    def cancel(self) -> None:
        """Cancel the job; a job that has ended is not changed."""
        if self._state["status"] == JobStatus.RUNNING:
            self._state = self._client.call(Method.CANCEL_JOB, job_id=self.id)

    def wait_for_completion(self, timeout: float | None = None, sleep_interval: float = 1) -> Self:
        """Wait until the job succeeds; changes of stage and queue position are logged.

        Args:
            timeout: Longest time to wait, in seconds; None for no limit.
            sleep_interval: Longest time between two polls, in seconds; the first polls follow each other faster.

        Raises:
            JobFailedError: The job ended without a result. The error also has the class of its cause, such as
                TooFewUsersError.
            JobTimeoutError: The job did not finish in time; it is still running.
        """
        if sleep_interval < 0:
            raise InvalidRequestError("`sleep_interval` is negative.", remedy="Give at least 0 seconds.")
        end = None if timeout is None else time.monotonic() + timeout
        pause, logged = min(_FIRST_SLEEP_SECONDS, sleep_interval), ""
        while not self.is_complete():
            left = pause if end is None else end - time.monotonic()
            if left <= 0:
                raise JobTimeoutError(
                    f"The job did not finish in time and is still running{self._standing()}.",
                    remedy="Wait again, or cancel the job.",
                )
            if (standing := self._standing()) != logged:
                logged = standing
                _LOG.info("The job is still running%s.", standing)
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, sleep_interval)
        if self._state["status"] == JobStatus.FAILED:
            raise self._failure()
        return self

    def result(self, timeout: float | None = RESULT_SECONDS) -> _Answer:
        """Return the result, waiting for the job if it is still running.

        Args:
            timeout: Longest time to wait, in seconds; None for no limit.

        Raises:
            JobFailedError: The job ended without a result.
            JobTimeoutError: The job did not finish in time; it is still running, and the message names its stage
                and its place in the queue.
            NotProvisionedError: The data that the job is about is not provisioned.
        """
        if not self._answers:
            self._answers.append(self._read(self._raw_result(timeout)))
        return self._answers[0]

    def get_result(self) -> bytes:
        """Return the result as the bytes of a ZIP file: `result.json`, or the files of a user list."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            self._pack(archive)
        return packed.getvalue()

    def get_result_as_zipfile(self) -> zipfile.ZipFile:
        """Return the result as an open ZIP file; `get_result` describes its contents."""
        return zipfile.ZipFile(io.BytesIO(self.get_result()))

    def _pack(self, archive: zipfile.ZipFile) -> None:
        archive.writestr("result.json", json.dumps(self._raw_result(), ensure_ascii=False))

    def _read(self, raw: Any) -> _Answer:
        """Parse the server's response."""
        answer: _Answer = self.answer.from_dict(raw)
        return answer

    def _raw_result(self, timeout: float | None = RESULT_SECONDS) -> Any:
        if self._raw is None:
            self.wait_for_completion(timeout)
            self._raw = self._client.call(Method.GET_JOB_RESULT, job_id=self.id)
        return self._raw

    def _now(self) -> Mapping[str, Any]:
        if self._state["status"] == JobStatus.RUNNING:
            self._state = self._client.call(Method.GET_JOB, job_id=self.id)
        return self._state

    def _standing(self) -> str:
        """Format a running job's last known stage and queue position as a message suffix; empty if unknown."""
        if self._state["status"] != JobStatus.RUNNING:
            return ""
        place = self._state.get("place")
        parts = (self._state.get("stage"), f"place {place} in the queue" if place is not None else "")
        return "".join(f", {part}" for part in parts if part)

    def _failure(self) -> JobFailedError:
        error = self._state.get("error")
        if isinstance(error, Mapping):
            return job_failure(error_from_dict(error))
        return JobFailedError(str(error) if error else "The job ended without a result.")


class MediaOverlapStatisticsJob(MediaComputeJob[OverlapStatisticsResult]):
    """Computes the overlap of each seed audience with the base audience."""

    kind = JobKind.OVERLAP_STATISTICS
    answer = OverlapStatisticsResult


class MediaInsightsJob(MediaComputeJob[ComputeInsightsResult]):
    """Computes the traits that distinguish the matched users of each seed audience."""

    kind = JobKind.INSIGHTS
    answer = ComputeInsightsResult


class MediaDataAttributesJob(MediaComputeJob[DataAttributesResult]):
    """Fetches the attributes that filters can use."""

    kind = JobKind.DATA_ATTRIBUTES
    answer = DataAttributesResult


class MediaGetAudiencesJob(MediaComputeJob[Audiences]):
    """Fetches the audiences that the caller can see."""

    kind = JobKind.AUDIENCES

    def _read(self, raw: Any) -> Audiences:
        return Audiences(
            [
                SeedAudience.from_dict(each) if each["kind"] == "seed" else CustomAudience.from_dict(each)
                for each in raw["audiences"]
            ]
        )


class MediaEstimateAudienceSizeJob(MediaComputeJob[dict[str, int | None]]):
    """Computes the size of an audience, as `{"userId": size}`; None if it is hidden or too small to publish."""

    kind = JobKind.AUDIENCE_SIZE

    def details(self) -> SizeOfAudience:
        """Return the size with its noise, or the reason why it is withheld; waits for the job if necessary."""
        return SizeOfAudience.from_dict(self._raw_result())

    def _read(self, raw: Any) -> dict[str, int | None]:
        return {USER_ID: SizeOfAudience.from_dict(raw).size}


class MediaLookalikeAudienceStatisticsJob(MediaComputeJob[LalAudienceStatistics]):
    """Computes how well a lookalike audience's ranking finds held-out seed users."""

    kind = JobKind.LOOKALIKE_STATISTICS
    answer = LalAudienceStatistics


class MediaBaseAudienceValidationReportsJob(MediaComputeJob[ValidationReports]):
    """Fetches the validation reports of the base audience."""

    kind = JobKind.BASE_REPORTS
    answer = ValidationReports


class MediaAudiencesValidationReportJob(MediaComputeJob[ValidationReport]):
    """Fetches the validation report of the seed audiences."""

    kind = JobKind.SEEDS_REPORT
    answer = ValidationReport


class DataLabValidationJob(MediaComputeJob[None]):
    """Validates the datasets of a data lab."""

    kind = JobKind.LAB_VALIDATION

    def _read(self, raw: Any) -> None:
        return None


class MediaAudienceUserListJob(MediaComputeJob[list[str]]):
    """Exports the users of an audience: their ids, or files for an ad destination."""

    kind = JobKind.USER_LIST

    def delivery(self) -> UserListDelivery:
        """Return the list of exported files; waits for the job if necessary."""
        return UserListDelivery.from_dict(self._raw_result())

    def download(self, folder: str | Path) -> list[Path]:
        """Download all exported files into a folder and return their paths.

        Args:
            folder: Created if it does not exist. A file of the same name is replaced atomically.

        Raises:
            DownloadDamagedError: A file does not match its announced size or checksum.
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

    def _pack(self, archive: zipfile.ZipFile) -> None:
        for file in self.delivery().files:
            with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as spooled:
                self._fetch(file, cast("IO[bytes]", spooled))
                spooled.seek(0)
                archive.writestr(_plain_name(file), spooled.read())

    def _read(self, raw: Any) -> list[str]:
        files = [file for file in self.delivery().files if file.name.startswith("part-")]
        if not all(file.name.endswith((".csv", ".csv.gz")) for file in files):
            raise InvalidRequestError(
                "The exported files are not plain lists of ids.",
                remedy="Call `download` to save the files as they are.",
            )
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
                # the connection broke: the file is unchanged, so it can be requested again
                if attempt == _MOST_DOWNLOADS:
                    raise
                continue
            if (n_bytes, digest.hexdigest()) == (file.n_bytes, file.sha256):
                return
            if attempt == _MOST_DOWNLOADS:
                break
        raise DownloadDamagedError(
            "A downloaded file does not match its announced size or checksum.",
            remedy="Try again. If it happens again, tell the operator.",
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
    # our server never sends a name that points outside the folder
    if Path(file.name).name != file.name or file.name in ("", ".", "..") or "\\" in file.name:
        raise DownloadDamagedError("A file in the export has an invalid name.", remedy="Tell the operator.")
    return file.name
