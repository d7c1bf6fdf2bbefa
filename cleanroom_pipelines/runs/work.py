"""What one run does with the version it has claimed: open inputs, store artifacts, finish or fail it.

Lives here: deciding what a run has to do, holding the claim during the work, and closing it however the work ends.
Add here when the lifecycle of a claim gets another step.
Keep out: building (`building*.py`) and Dagster.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from cleanroom_pipelines.catalog import (
    RECORDS,
    Claim,
    Dossier,
    Holding,
    Kind,
    ParentRef,
    Resource,
    Status,
    Version,
    holding,
)
from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.errors import (
    CancelledError,
    ClaimLostError,
    CleanroomError,
    StatusCode,
)
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS
from cleanroom_pipelines.runs.notices import Notice, notify
from cleanroom_pipelines.runs.signals import handle_signals
from cleanroom_pipelines.runs.upgrading import wait_for_rebuild
from cleanroom_pipelines.storage import ArtifactReference, Draft, Input, InstallationKey, Manifest
from cleanroom_pipelines.storage.artifacts import of_the_machine
from cleanroom_pipelines.storage.objects import Fence
from cleanroom_pipelines.ways_in import acting_for

_CANCELLED = "The work was cancelled."
_STOPPED = "The run was stopped."
SECONDS_BETWEEN_REPORTS = 1.0

_RECORDS = "records in manifests"


_R = TypeVar("_R", bound=Resource)


class UnexpectedError(CleanroomError):
    """An error that is not one of ours; only its class and place are kept, because its text may quote data."""


@dataclass(frozen=True)
class Run:
    """Identifies who does the work: a Dagster run, or a process of the operator.

    Args:
        id: Id of the run; the claim carries it.
        number: The version the run was started for; None for a manual materialisation of the partition.
        was_cancelled: Returns whether a person stopped the run on purpose, as opposed to a shutdown.
    """

    id: str
    number: int | None = None
    was_cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class NothingToDo:
    """No work for this run: another run has the claim, a parent is not ready, or artifacts were only verified.

    Args:
        message: One sentence for people who view the run.
        verified: The version whose artifacts to check against their manifests, if that was requested.
    """

    message: str
    verified: Version | None = None


@dataclass
class Work(Generic[_R]):
    """A version that this run has claimed, with the operations that its builder needs."""

    installation: Installation
    record: _R
    version: Version
    claim: Claim
    is_lost: Callable[[], bool]
    is_interrupted: Callable[[], bool] = lambda: False
    manifests: dict[str, Manifest] = field(default_factory=dict)
    is_open: bool = True
    _reported_at: float = 0.0
    _asked_at: float = 0.0

    def report_progress(self, share: float, stage: str) -> None:
        """Write the progress to the catalogue, at most once a second."""
        if time.monotonic() - self._reported_at >= SECONDS_BETWEEN_REPORTS:
            self._reported_at = time.monotonic()
            self.installation.catalog.work.report_progress(self.claim, share, stage)

    def should_cancel(self) -> bool:
        """Whether the work should stop: on request, because its claim was lost, or because the process ends."""
        if self.is_lost():
            raise ClaimLostError("Another run took over this work.")
        if self.is_interrupted():
            raise KeyboardInterrupt
        if time.monotonic() - self._asked_at < SECONDS_BETWEEN_REPORTS:
            return False
        self._asked_at = time.monotonic()
        return self.installation.catalog.work.is_cancel_requested(self.claim)

    @property
    def runtime(self) -> Runtime:
        """Engine settings, progress and cancellation for long operations on this version."""
        return Runtime(self.installation.engine_settings, self.report_progress, self.should_cancel)

    @contextmanager
    def drafting(self, asset: str, inputs: tuple[Input, ...], spec: Mapping[str, Any]) -> Iterator[Draft]:
        """Write one asset's artifact, and publish it in the catalogue when the `with` body ends.

        Args:
            asset: Name of the asset.
            inputs: Its inputs.
            spec: Other settings that determine its content, as small JSON; part of the data version.
        """
        version = f"{self.version.number:04d}-{self.installation.token_hex(4)}"
        reference = ArtifactReference(asset, self.record.id, version)
        with self.installation.store.drafting(
            reference,
            code_version=ASSETS[asset].code_version,
            data_version=self.data_version(asset, inputs, spec),
            created_at=self.installation.clock().isoformat(),
            inputs=inputs,
            fence=self.fence,
            record=self._record(),
        ) as draft:
            yield draft
        assert draft.manifest is not None
        self.manifests[asset] = draft.manifest
        self.installation.catalog.work.publish_artifact(self.claim, asset, version)

    @property
    def fence(self) -> Fence:
        """Return the checks to pass before publishing in the installation; cancellation remains possible."""
        check = partial(self.installation.catalog.work.check_wanted, self.claim)
        return Fence(self.claim.queue_generation + 1, check, check)

    @property
    def delivery_fence(self) -> Fence:
        """Return the checks to pass before publishing outside the installation; they rule out cancellation."""
        return replace(self.fence, commit=partial(self.installation.catalog.work.begin_delivery, self.claim))

    @contextmanager
    def withdrawing(self, asset: str) -> Iterator[None]:
        """Delete the artifact of a delivery if the delivery fails in the `with` body, because it lists users."""
        try:
            yield
        except BaseException:
            manifest = self.manifests.pop(asset, None) if self.is_open else None
            if manifest is not None:
                with suppress(CleanroomError):  # the original error matters more
                    with suppress(ClaimLostError):  # then no version refers to it
                        self.installation.catalog.work.withdraw_artifact(self.claim, asset)
                    self.installation.store.delete(manifest.reference)
            raise

    @contextmanager
    def opening_input(self, reference: ArtifactReference) -> Iterator[Path]:
        """Open an input artifact; it is fetched and verified once per run, not once per step."""
        store, held = self.installation.store, _opened_by_runs.get(self.claim.run_id)
        if held is None:
            with store.opening(reference) as folder:
                yield folder
            return
        if reference not in held.folders:
            held.folders[reference] = held.stack.enter_context(store.opening(reference))
        yield held.folders[reference]

    @contextmanager
    def opening(self, asset: str) -> Iterator[Path]:
        """Open an artifact that this run has just built."""
        with self.installation.store.opening(self.manifests[asset].reference) as path:
            yield path

    def finish(
        self,
        sentence: str,
        parents: tuple[ParentRef, ...] = (),
        *,
        output_location: str | None = None,
        **facts: Any,
    ) -> None:
        """Finish the version: it becomes ACTIVE.

        A delivery that was already published can no longer fail: if the catalogue is unavailable now, the lease
        expires and the next attempt delivers again.

        Args:
            sentence: Summary for people, in one sentence.
            parents: The versions it was built from.
            output_location: The folder that an export wrote.
            **facts: Headline numbers.

        Raises:
            ClaimLostError: Another run took over the work.
            CancelledError: The work was asked to stop.
        """
        self.is_open = False
        try:
            if output_location is not None:
                self.installation.catalog.work.publish_output(self.claim, output_location)
            self.installation.catalog.work.finish(self.claim, {"sentence": sentence, **facts}, parents)
        except (ClaimLostError, CancelledError):
            self.is_open = True  # nothing was changed
            raise
        self._notify(Status.ACTIVE, None)

    def fail(self, status_code: StatusCode, message: str) -> None:
        """Record that building the version failed (CREATE_FAILED)."""
        self.is_open = False
        self.installation.catalog.work.fail(self.claim, status_code, message)
        self._notify(Status.CREATE_FAILED, status_code)

    def release(self) -> None:
        """Release the claim and requeue the version for another run."""
        self.is_open = False
        self.installation.catalog.work.release(self.claim)

    def data_version(self, asset: str, inputs: tuple[Input, ...], spec: Mapping[str, Any]) -> str:
        """Return a keyed digest of an asset's inputs and of the code version that builds it."""
        canonical = json.dumps(
            [asset, ASSETS[asset].code_version, [(entry.asset, entry.digest) for entry in inputs], spec],
            sort_keys=True,
            default=str,
        )
        return self.installation.key.digest("data versions", canonical.encode())[:32]

    def _record(self) -> str:
        """Return the encrypted record for rebuilding a lost catalogue, with names, addresses and queries."""
        dossier = self.installation.catalog.dossiers.dossier(self.record.kind, self.record.id, self.version.number)
        return seal_dossier(self.installation.key, dossier)

    def _notify(self, status: Status, status_code: StatusCode | None) -> None:
        code = status_code.value if status_code else ""
        notice = Notice(self.record.kind.value, self.record.id, str(self.version.number), status.value, code)
        settings = self.installation.settings
        notify(
            self.installation.catalog,
            notice,
            setting=settings.notify,
            secrets=settings.secrets,
            is_stopping=self.is_interrupted,
        )


@contextmanager
def working(
    installation: Installation, record_type: type[_R], partition: str, run: Run
) -> Iterator[Work[_R] | NothingToDo]:
    """Claim the version that a run is to build, and release the claim however the `with` body ends.

    If the body raises one of our errors, the version fails with its code; any other error becomes INTERNAL,
    without its text. Stopping a run on purpose fails the version as CANCELLED; a shutdown requeues it.

    Args:
        installation: The installation to work on.
        record_type: The class of the resource's records.
        partition: Partition key of the resource.
        run: The run that does the work.

    Yields:
        The work, or the reason that there is none.

    Raises:
        CleanroomError: The body's error, free of data.
    """
    kind = record_type.kind
    with handle_signals() as stop_signal, _requeueing_if_interrupted(installation, kind, partition, run):
        outcome = _claim(installation, kind, partition, run)
        if isinstance(outcome, NothingToDo):
            yield outcome
            return
        version, claim = outcome
        record = installation.catalog.get(record_type, partition)
        with _holding(installation, claim) as keeper:
            work = Work(installation, record, version, claim, keeper.lost.is_set, stop_signal.is_set)
            try:
                yield work
            except ClaimLostError:
                raise
            except Exception as error:
                if stop_signal.is_set():  # DuckDB turns a signal into its own error
                    _end_interrupted(work, run)
                    raise KeyboardInterrupt from None
                raise _close_failed(work, error) from None
            except BaseException:
                _end_interrupted(work, run)
                raise


@contextmanager
def holding_for_run(installation: Installation, kind: Kind, partition: str, run: Run) -> Iterator[None]:
    """Claim a version when its run starts and hold the claim until the run ends, including waits between steps.

    If the version cannot be claimed, nothing is held, and the steps report it.
    """
    catalog, claim = installation.catalog, None
    with handle_signals() as stop:
        try:
            if run.number is not None:
                with suppress(CleanroomError):
                    claim = catalog.work.claim(kind, partition, run.number, run.id)
            if claim is None:
                yield
                return
            with holding(catalog.work, claim) as keeper, ExitStack() as opened:
                _held_by_runs[run.id] = keeper
                _opened_by_runs[run.id] = _Opened(opened)
                yield
        finally:  # also where a signal came right after the claim
            _held_by_runs.pop(run.id, None)
            _opened_by_runs.pop(run.id, None)
            if claim is not None:
                with suppress(CleanroomError):  # the steps have usually closed it
                    if run.was_cancelled():
                        catalog.work.fail(claim, StatusCode.CANCELLED, _STOPPED)
                    elif stop.is_set():
                        catalog.work.release(claim)
                    else:
                        catalog.work.abandon(claim)


# Claims that runs in this process hold from start to end, by run id.
_held_by_runs: dict[str, Holding] = {}


@dataclass
class _Opened:
    """The artifacts that a run has opened and verified; they stay open until the run ends."""

    stack: ExitStack
    folders: dict[ArtifactReference, Path] = field(default_factory=dict)


_opened_by_runs: dict[str, _Opened] = {}


def _holding(installation: Installation, claim: Claim) -> AbstractContextManager[Holding]:
    keeper = _held_by_runs.get(claim.run_id)
    if keeper is not None and keeper.is_of(claim):
        return nullcontext(keeper)
    return holding(installation.catalog.work, claim)


def _close_failed(work: Work[Any], error: Exception) -> CleanroomError:
    """Record that a version failed, and return the error to raise, without any data in its text."""
    if isinstance(error, CancelledError):
        _close(work, StatusCode.CANCELLED, _CANCELLED)
        return error
    reason = error if isinstance(error, CleanroomError) else without_data_of(error)
    _close(work, reason.status_code, str(reason))
    return reason


def _end_interrupted(work: Work[Any], run: Run) -> None:
    if run.was_cancelled():
        _close(work, StatusCode.CANCELLED, _STOPPED)
    elif work.is_open:
        with suppress(ClaimLostError):
            work.release()


@contextmanager
def _requeueing_if_interrupted(installation: Installation, kind: Kind, partition: str, run: Run) -> Iterator[None]:
    """Requeue the work if the run is interrupted, even while it claims or closes the version."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        catalog = installation.catalog
        with suppress(CleanroomError):
            newest = catalog.resources.newest_version(kind, partition)
            if newest.status is Status.CREATE_IN_PROGRESS and newest.run_id == run.id:
                claim = catalog.work.claim(kind, partition, newest.number, run.id)
                if claim is not None:
                    catalog.work.release(claim)
        raise


def _claim(
    installation: Installation, kind: Kind, partition: str, run: Run
) -> tuple[Version, Claim] | NothingToDo:
    catalog = installation.catalog
    newest = catalog.resources.newest_version(kind, partition)
    number = run.number
    if number is None and newest.run_id == run.id and newest.status is Status.CREATE_IN_PROGRESS:
        number = newest.number  # the same run built the previous asset
    if number is None:
        with acting_for("ui"):
            by_hand = catalog.work.request_manually(kind, partition)
        if by_hand.action == "verify":
            return NothingToDo(by_hand.message, by_hand.version)
        if by_hand.action != "work":
            return NothingToDo(by_hand.message)
        number = by_hand.version.number
    claim = catalog.work.claim(kind, partition, number, run.id)
    if claim is None:
        return NothingToDo("Another run holds or has finished this work, so this run built nothing.")
    version = catalog.resources.version(kind, partition, number)
    try:
        reason = wait_for_rebuild(installation, catalog.get(RECORDS[kind], partition), version)
    except CleanroomError as error:
        catalog.work.fail(claim, error.status_code, str(error))
        raise
    if reason is not None:
        catalog.work.release(claim)
        return NothingToDo(reason)
    return version, claim


def _close(work: Work[Any], status_code: StatusCode, message: str) -> None:
    if work.is_open:
        with suppress(ClaimLostError):  # the run that took it over closes it
            work.fail(status_code, message)


def seal_dossier(key: InstallationKey, dossier: Dossier) -> str:
    """Encrypt the catalogue's record of a version for its manifest; `unseal_dossier` decrypts it."""
    return key.seal(_RECORDS, json.dumps(dossier, sort_keys=True).encode()).decode()


def unseal_dossier(key: InstallationKey, record: str) -> Dossier:
    """Decrypt a record that `seal_dossier` encrypted.

    Raises:
        ConfigurationError: It was altered, or sealed with another key.
    """
    dossier: Dossier = json.loads(key.unseal(_RECORDS, record.encode()))
    return dossier


@contextmanager
def without_data() -> Iterator[None]:
    """Re-raise our own errors unchanged, and replace any other error by one whose text contains no data.

    Raises:
        UnexpectedError: In place of any other error.
    """
    try:
        yield
    except CleanroomError:
        raise
    except Exception as error:
        raise without_data_of(error) from None


def without_data_of(error: Exception) -> CleanroomError:
    """Describe a third-party error without its text: as a known problem, or by its class and place in the code."""
    if isinstance(error, OSError) and (known := of_the_machine(error)) is not None:
        return known
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "cleanroom_pipelines" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown location"
    return UnexpectedError(
        f"An unexpected {type(error).__name__} at {place} stopped this work.",
        remedy="Try again. If it happens again, report this location.",
    )
