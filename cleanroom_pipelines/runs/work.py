"""One claimed version being worked on by one run.

Lives here: deciding what a run is to do, holding the claim while it does it, and closing it however it ends.
Add here when the life of a claim gets a further turn.
Keep out: what is made (building.py) and Dagster.
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
from cleanroom_pipelines.runs.notices import send_notice
from cleanroom_pipelines.runs.signals import handle_signals
from cleanroom_pipelines.runs.upgrading import wait_for_rebuild
from cleanroom_pipelines.storage import ArtifactReference, Draft, Input, InstallationKey, Manifest
from cleanroom_pipelines.storage.artifacts import of_the_machine
from cleanroom_pipelines.storage.fences import Fence
from cleanroom_pipelines.ways_in import acting_for

_CANCELLED = "The work was cancelled."
_STOPPED = "The run was stopped."
SECONDS_BETWEEN_REPORTS = 1.0

_RECORDS = "records in manifests"


_R = TypeVar("_R", bound=Resource)


class UnexpectedError(CleanroomError):
    """A defect of ours; keeps the place and the class of the error, never its text, which may quote data."""


@dataclass(frozen=True)
class Run:
    """Who works: a Dagster run, or a process of the operator's.

    Args:
        id: Id of the run; the claim carries it.
        number: The version the run was started for; None when a person asked for the partition by hand.
        was_cancelled: Tells whether somebody stopped the run on purpose, as opposed to a shutdown.
    """

    id: str
    number: int | None = None
    was_cancelled: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class NothingToDo:
    """Nothing to make: another run is at it, it waits for its parent, or it was verified.

    Args:
        message: One sentence for the person who looks at the run.
        verified: The version whose artifacts are to be checked against their manifests, if that is what was asked.
    """

    message: str
    verified: Version | None = None


@dataclass
class Work(Generic[_R]):
    """A version this run holds the claim of."""

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
        """Whether to stop: somebody asked, the claim is gone or the process is to end. Asked between shards."""
        if self.is_lost():
            raise ClaimLostError("Another run took this work over.")
        if self.is_interrupted():
            raise KeyboardInterrupt
        if time.monotonic() - self._asked_at < SECONDS_BETWEEN_REPORTS:
            return False
        self._asked_at = time.monotonic()
        return self.installation.catalog.work.is_cancel_requested(self.claim)

    @property
    def runtime(self) -> Runtime:
        """What long operations on this version are given."""
        return Runtime(self.installation.engine_settings, self.report_progress, self.should_cancel)

    @contextmanager
    def drafting(self, asset: str, inputs: tuple[Input, ...], spec: Mapping[str, Any]) -> Iterator[Draft]:
        """Write one asset's artifact and publish it in the catalogue.

        Args:
            asset: Name of the asset.
            inputs: What it is made from.
            spec: What else decides its content, as small JSON; goes into the data version.
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
        """What is asked before something becomes visible that the version's end still decides on."""
        check = partial(self.installation.catalog.work.check_wanted, self.claim)
        return Fence(self.claim.queue_generation + 1, check, check)

    @property
    def delivery_fence(self) -> Fence:
        """What is asked before something becomes visible outside; its last step is the end of all cancelling."""
        return replace(self.fence, commit=partial(self.installation.catalog.work.begin_delivery, self.claim))

    @contextmanager
    def withdrawing(self, asset: str) -> Iterator[None]:
        """Delete the asset's artifact again if what it tells of does not come about: it lists users."""
        try:
            yield
        except BaseException:
            manifest = self.manifests.pop(asset, None) if self.is_open else None
            if manifest is not None:
                with suppress(CleanroomError):  # the error that is under way matters more
                    with suppress(ClaimLostError):  # then no version names it
                        self.installation.catalog.work.withdraw_artifact(self.claim, asset)
                    reference = ArtifactReference(asset, self.record.id, manifest.version)
                    self.installation.store.delete(reference)
            raise

    @contextmanager
    def opening_input(self, reference: ArtifactReference) -> Iterator[Path]:
        """Open an artifact that this is made from: fetched and verified once in a run, whatever its steps."""
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
        """Open an artifact this run has just made."""
        manifest = self.manifests[asset]
        with self.installation.store.opening(ArtifactReference(asset, self.record.id, manifest.version)) as path:
            yield path

    def finish(
        self,
        sentence: str,
        parents: tuple[ParentRef, ...] = (),
        *,
        output_location: str | None = None,
        **facts: Any,
    ) -> None:
        """Close the version as ACTIVE.

        What was delivered cannot fail any more: if the catalogue does not answer now, the lease runs out and the
        next attempt delivers it again.

        Args:
            sentence: What a person should know first.
            parents: What it was made from.
            output_location: The folder that an export wrote.
            **facts: Headline numbers.

        Raises:
            ClaimLostError: Another run took the work over.
            CancelledError: Somebody asked for it to stop.
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
        """Close the version as CREATE_FAILED."""
        self.is_open = False
        self.installation.catalog.work.fail(self.claim, status_code, message)
        self._notify(Status.CREATE_FAILED, status_code)

    def release(self) -> None:
        """Give the version back for another run."""
        self.is_open = False
        self.installation.catalog.work.release(self.claim)

    def data_version(self, asset: str, inputs: tuple[Input, ...], spec: Mapping[str, Any]) -> str:
        """Keyed digest of what an asset is made from, and of the code that makes it."""
        canonical = json.dumps(
            [asset, ASSETS[asset].code_version, [(entry.asset, entry.digest) for entry in inputs], spec],
            sort_keys=True,
            default=str,
        )
        return self.installation.key.digest("data versions", canonical.encode())[:32]

    def _record(self) -> str:
        """What a lost catalogue can be rebuilt from, sealed: it holds names, addresses and queries."""
        dossier = self.installation.catalog.dossiers.dossier(self.record.kind, self.record.id, self.version.number)
        return seal_dossier(self.installation.key, dossier)

    def _notify(self, status: Status, status_code: StatusCode | None) -> None:
        notice = {
            "kind": self.record.kind.value,
            "id": self.record.id,
            "version": str(self.version.number),
            "status": status.value,
            "status_code": status_code.value if status_code else "",
        }
        send_notice(self.installation.settings.notify, notice)


@contextmanager
def working(
    installation: Installation, record_type: type[_R], partition: str, run: Run
) -> Iterator[Work[_R] | NothingToDo]:
    """Claim what the run is to do and close the claim however the body ends.

    A body that raises one of our errors fails the version with its code; any other error becomes INTERNAL, without
    its text. A run that is stopped on purpose fails it as CANCELLED; a shutdown gives it back.

    Args:
        installation: Where to work.
        record_type: The class of the resource's records.
        partition: Partition key of the resource.
        run: Who works.

    Yields:
        The work; or why there is none.

    Raises:
        CleanroomError: What the body raised, free of data.
    """
    kind = record_type.kind
    with handle_signals() as told, _giving_back(installation, kind, partition, run):
        outcome = _claim(installation, kind, partition, run)
        if isinstance(outcome, NothingToDo):
            yield outcome
            return
        version, claim = outcome
        record = installation.catalog.get(record_type, partition)
        with _holding(installation, claim) as keeper:
            work = Work(installation, record, version, claim, keeper.lost.is_set, told.is_set)
            try:
                yield work
            except ClaimLostError:
                raise
            except Exception as error:
                if told.is_set():  # DuckDB makes an error of its own of a signal
                    _end_interrupted(work, run)
                    raise KeyboardInterrupt from None
                raise _close_failed(work, error) from None
            except BaseException:
                _end_interrupted(work, run)
                raise


@contextmanager
def holding_for_run(installation: Installation, kind: Kind, partition: str, run: Run) -> Iterator[None]:
    """Claim a version when its run starts and hold it until the run ends, waits between its steps included.

    Nothing is held where the version is not to be had; the steps find out and say so.
    """
    catalog, claim = installation.catalog, None
    if run.number is not None:
        with suppress(CleanroomError):
            claim = catalog.work.claim(kind, partition, run.number, run.id)
    if claim is None:
        yield
        return
    with handle_signals() as told, holding(catalog.work, claim) as keeper:
        _held_by_runs[run.id] = keeper
        try:
            with ExitStack() as opened:
                _opened_by_runs[run.id] = _Opened(opened)
                yield
        finally:
            del _held_by_runs[run.id]
            _opened_by_runs.pop(run.id, None)
            with suppress(CleanroomError):  # the steps have closed it, as a rule
                if run.was_cancelled():
                    catalog.work.fail(claim, StatusCode.CANCELLED, _STOPPED)
                elif told.is_set():
                    catalog.work.release(claim)
                else:
                    catalog.work.abandon(claim)


# The claims that runs of this process hold from start to end, by run id.
_held_by_runs: dict[str, Holding] = {}


@dataclass
class _Opened:
    """The artifacts that a run has opened and verified, by reference, until it ends."""

    stack: ExitStack
    folders: dict[ArtifactReference, Path] = field(default_factory=dict)


_opened_by_runs: dict[str, _Opened] = {}


def _holding(installation: Installation, claim: Claim) -> AbstractContextManager[Holding]:
    keeper = _held_by_runs.get(claim.run_id)
    if keeper is not None and keeper.is_of(claim):
        return nullcontext(keeper)
    return holding(installation.catalog.work, claim)


def _close_failed(work: Work[Any], error: Exception) -> CleanroomError:
    """Close the version with the reason of an error, and give what may be raised of it."""
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
def _giving_back(installation: Installation, kind: Kind, partition: str, run: Run) -> Iterator[None]:
    """Give back what an interrupted run still holds: the signal may come as the claim is taken or closed."""
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
        number = newest.number  # the same run made the asset before this one
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
        return NothingToDo("Another run holds this work, or has done it; nothing was made here.")
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
        with suppress(ClaimLostError):  # whoever took it over closes it
            work.fail(status_code, message)


def seal_dossier(key: InstallationKey, dossier: Dossier) -> str:
    """What a manifest carries of a version; `unseal_dossier` reads it back."""
    return key.seal(_RECORDS, json.dumps(dossier, sort_keys=True).encode()).decode()


def unseal_dossier(key: InstallationKey, record: str) -> Dossier:
    """Read what `seal_dossier` wrote.

    Raises:
        ConfigurationError: It was altered, or sealed under another key.
    """
    dossier: Dossier = json.loads(key.unseal(_RECORDS, record.encode()))
    return dossier


@contextmanager
def without_data() -> Iterator[None]:
    """Let our own errors pass and replace any other by one that holds no data.

    Raises:
        UnexpectedError: In place of what was not ours.
    """
    try:
        yield
    except CleanroomError:
        raise
    except Exception as error:
        raise without_data_of(error) from None


def without_data_of(error: Exception) -> CleanroomError:
    """What may be said of an error that is not ours: why the machine refused, or else its class and its place."""
    if isinstance(error, OSError) and (known := of_the_machine(error)) is not None:
        return known
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "cleanroom_pipelines" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"
    return UnexpectedError(
        f"An unexpected {type(error).__name__} at {place} stopped this work.",
        remedy="Try again; if it stays, report this place.",
    )
