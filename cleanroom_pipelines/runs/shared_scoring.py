"""Scoring one audience in several Dagster runs, for installations with several hosts and no cluster.

Lives here: publishing a fit for helpers, claiming ranges of shards until all are scored, helping other runs.
Add here when another step of a job is worth sharing.
Keep out: scoring itself (similarity.scoring), and starting helpers (defs, serving_worker).

The run that holds a job's claim fits the ensemble, publishes it in the home's scratch folder, which all hosts can
read, and starts to score ranges of shards. Runs of the job `score_shards`, on any host, claim ranges from the same
list and write their scores to files. When all scores exist, the first run ranks them; the result is byte-identical
to a single run's. Claims are files created exclusively; the range of a helper without a sign of life for a minute
is taken over. Only the weights of the fit are published, not the seed users.

Decided 2026-11-27, instead of catalogue records with claims: a range is small, so scoring it twice is harmless,
and the run that needs the scores also computes them, so it cannot deadlock and leaves only one folder to clean up.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.engine import Engine, open_engine
from cleanroom_pipelines.errors import ArtifactError, CancelledError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.storage.artifacts import write_durably

Float64 = npt.NDArray[np.float64]

_PREFIX = "scoring-"
_PLAN = "plan.json"
_RANGES_PER_RUN = 4
_MAX_RANGE_USERS = 1 << 22
_SILENT_SECONDS = 60.0
_LOOK_SECONDS = 0.2


def shared_scoring(
    installation: Installation, model: ArtifactReference
) -> "Callable[..., Iterator[Float64]] | None":
    """Return a scoring function for `similarity.ranking.generate` that shares the work with helper runs.

    Args:
        installation: The installation; a setting limits the number of runs that score one audience.
        model: The model's artifact, for the helpers.

    Returns:
        None if one run scores everything.
    """
    n_runs = installation.settings.scoring_runs
    if n_runs < 2 or installation.settings.engine_url is not None:
        return None

    def score(opened: Any, fit: Any, report_progress: Callable[[float], None]) -> Iterator[Float64]:
        n_ranges = min(opened.n_shards, max(n_runs * _RANGES_PER_RUN, opened.n_users // _MAX_RANGE_USERS))
        cuts = [opened.n_shards * number // n_ranges for number in range(n_ranges + 1)]
        ranges = list(pairwise(cuts))
        scratch = installation.home.scratch_root
        # A helper may still be writing there when everything is scored.
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=scratch, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            if n_ranges > 1:
                plan = {"asset": model.asset, "partition": model.partition, "version": model.version}
                publish_scoring(folder, fit, plan | {"ranges": ranges})
            with open_engine(installation.engine_settings, paths=(opened.folder,)) as engine:
                yield from score_together(engine, folder, (opened, fit), ranges, report_progress)

    return score


def n_helpers_wanted(installation: Installation) -> int:
    """Return how many helper runs to start: one per group of users not yet claimed, up to the limit."""
    wanted = 0
    for folder in _open_folders(installation):
        left = sum(not (folder / f"{k}.claim").exists() for k in range(len(_plan_of(folder)["ranges"])))
        wanted += min(left, installation.settings.scoring_runs - 1)
    return wanted


def help_scoring(installation: Installation, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Score groups of users for other runs, until no group is left to claim.

    Args:
        installation: The installation to work on.
        should_stop: Checked between pieces of work.

    Returns:
        Number of users scored.

    Raises:
        ArtifactError: A model or a fit cannot be read.
    """
    n_users = 0
    for folder in _open_folders(installation):
        try:
            n_users += _help_one(installation, folder, should_stop)
        except (FileNotFoundError, CancelledError):
            continue  # the run that published it has ended, or this one must end
        except ArtifactError:
            if folder.exists():
                raise
    return n_users


def publish_scoring(folder: Path, fit: Any, plan: dict[str, Any]) -> None:
    """Write the fitted ensemble without its seed users, and then the plan that helper runs wait for.

    Args:
        folder: Folder below the scratch folder, visible to all hosts.
        fit: The fitted ensemble.
        plan: The model's artifact and the ranges of shards.
    """
    from cleanroom_pipelines.similarity.fits import save_fit

    nobody = np.zeros(0, dtype=np.int64)
    held_out = replace(fit.held_out, fold=nobody, percentile=nobody, above=nobody, tied=nobody)
    bare = replace(
        fit, seed=nobody, seed_hashes=nobody, seed_ids=pa.array([], pa.string()), held_out=held_out, explanation={}
    )
    save_fit(bare, folder)
    write_durably(folder / _PLAN, json.dumps(plan).encode())


def score_together(
    engine: Engine,
    folder: Path,
    fitted: tuple[Any, Any],
    ranges: list[tuple[int, int]],
    report_progress: Callable[[float], None],
) -> Iterator[Float64]:
    """Score all groups of users that no live helper has claimed, and wait for the scores of the helpers.

    Args:
        engine: The engine that scores.
        folder: Folder of claims and scores.
        fitted: The model and the fit.
        ranges: The shards of each range.
        report_progress: Called with the share that is done; raises to stop.

    Yields:
        The scores of each range, in the model's order, when all are there.
    """
    from cleanroom_pipelines.similarity.scoring import score_users

    model, fit = fitted
    n_ranges = len(ranges)
    while missing := [k for k in range(n_ranges) if not _scores_file(folder, k).exists()]:
        share = 1 - len(missing) / n_ranges
        report_progress(share)
        mine = next((k for k in missing if _claim(folder, k) or _is_dead(folder, f"{k}.claim")), None)
        if mine is None:
            os.utime(folder / _PLAN)
            time.sleep(_LOOK_SECONDS)
            continue

        def on_share(done: float, before: float = share, claim: int = mine) -> None:
            report_progress(before + done / n_ranges)
            os.utime(folder / f"{claim}.claim")
            if n_ranges > 1:
                os.utime(folder / _PLAN)

        _write_scores(folder, mine, score_users(engine, model, fit.scorer, range(*ranges[mine]), on_share))
    for k in range(n_ranges):
        yield np.load(_scores_file(folder, k), allow_pickle=False)


def _help_one(installation: Installation, folder: Path, should_stop: Callable[[], bool]) -> int:
    from cleanroom_pipelines.similarity.fits import load_fit
    from cleanroom_pipelines.similarity.model import Model
    from cleanroom_pipelines.similarity.scoring import score_users
    from cleanroom_pipelines.similarity.training import one_blas_thread

    plan = _plan_of(folder)
    ranges = plan["ranges"]
    n_users = 0
    # Start from the end, which the publishing run reaches last.
    taken = (k for k in reversed(range(len(ranges))) if _claim(folder, k))
    first = next(taken, None)
    if first is None:
        return 0
    reference = ArtifactReference(plan["asset"], plan["partition"], plan["version"])
    with (
        installation.store.opening(reference) as model_folder,
        open_engine(installation.engine_settings, paths=(model_folder,)) as engine,
        one_blas_thread(),
    ):
        model, fit = Model(model_folder), load_fit(folder)
        for number in _chained(first, taken):
            claim = folder / f"{number}.claim"

            def on_share(_: float, claim: Path = claim) -> None:
                os.utime(claim)  # raises if the folder was deleted and the scores are no longer needed
                if should_stop():
                    raise CancelledError("The work was cancelled.")

            try:
                scores = score_users(engine, model, fit.scorer, range(*ranges[number]), on_share)
            except BaseException:
                claim.unlink(missing_ok=True)  # another run may claim it at once
                raise
            _write_scores(folder, number, scores)
            n_users += len(scores)
    return n_users


def _chained(first: int, others: Iterator[int]) -> Iterator[int]:
    yield first
    yield from others


def _open_folders(installation: Installation) -> list[Path]:
    """Return the folders in which live runs offer work to helpers; those of killed runs are ignored."""
    folders = sorted(path.parent for path in installation.home.scratch_root.glob(f"{_PREFIX}*/{_PLAN}"))
    return [folder for folder in folders if not _is_dead(folder, _PLAN)]


def _plan_of(folder: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads((folder / _PLAN).read_text())
    except FileNotFoundError:
        return {"ranges": []}
    return plan


def _claim(folder: Path, number: int) -> bool:
    """Claim a group of users to score; of several runs, only one succeeds."""
    try:
        os.close(os.open(folder / f"{number}.claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def _is_dead(folder: Path, name: str) -> bool:
    """Whether a run died: by the file system's clock, it has not touched its file for a minute."""
    clock = folder / "clock"
    try:
        clock.touch()
        age = clock.stat().st_mtime - (folder / name).stat().st_mtime
    except FileNotFoundError:
        return False
    return age > _SILENT_SECONDS


def _write_scores(folder: Path, number: int, scores: Float64) -> None:
    """Write the scores of a group of users atomically; a second writer writes the same bytes."""
    target = _scores_file(folder, number)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(handle, "wb") as stream:
        np.save(stream, scores, allow_pickle=False)
        stream.flush()
        # Another host may read it after this one has failed.
        os.fsync(stream.fileno())
    Path(name).replace(target)


def _scores_file(folder: Path, number: int) -> Path:
    return folder / f"{number}.npy"
