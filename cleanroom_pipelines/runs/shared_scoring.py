"""One audience scored by several Dagster runs, for installations with hosts and no cluster.

Lives here: laying a fit open for helpers, taking ranges of shards until all are scored, helping.
Add here when another step of a job is worth sharing.
Keep out: what scoring is (similarity.scoring), and starting helpers (defs, serving_worker).

The run that holds a job's claim fits the ensemble, lays it open in the scratch folder of the home, which all hosts
see, and begins to score ranges of shards. Runs of the job `score_shards`, on whatever host, take ranges of the
same list; each writes its scores to a file. When all are there the first run ranks them: the bytes are those of
one run alone. Claims are files made exclusively; a helper that falls silent for a minute is taken over. Only the
weights of the fit are laid open: not who the seed users are.

Decided 2026-11-27, instead of records with claims for each part: a range is small and scoring it twice harms
nothing, and the run that needs the scores works on them itself, so there is nothing to deadlock and nothing to
clean up but one folder.
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
_SILENT_SECONDS = 60.0
_LOOK_SECONDS = 0.2


def shared_scoring(installation: Installation, model: ArtifactReference) -> "Callable[..., Float64] | None":
    """What `similarity.ranking.generate` calls to score everybody with the help of other runs.

    Args:
        installation: Where; its setting says how many runs score one audience.
        model: The model's artifact, for the helpers.

    Returns:
        None where one run scores everything.
    """
    n_runs = installation.settings.scoring_runs
    if n_runs < 2 or installation.settings.engine_url is not None:
        return None

    def score(opened: Any, fit: Any, tell: Callable[[float], None]) -> Float64:
        n_ranges = min(opened.n_shards, n_runs * _RANGES_PER_RUN)
        cuts = [opened.n_shards * number // n_ranges for number in range(n_ranges + 1)]
        ranges = list(pairwise(cuts))
        scratch = installation.home.scratch_root
        # A helper may be writing there still when everything is scored.
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=scratch, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            if n_ranges > 1:
                plan = {"asset": model.asset, "partition": model.partition, "version": model.version}
                publish_scoring(folder, fit, plan | {"ranges": ranges})
            with open_engine(installation.engine_settings, paths=(opened.folder,)) as engine:
                return score_together(engine, folder, (opened, fit), ranges, tell)

    return score


def n_helpers_wanted(installation: Installation) -> int:
    """How many further runs would find something to score."""
    wanted = 0
    for folder in _open_folders(installation):
        left = sum(not (folder / f"{k}.claim").exists() for k in range(len(_plan_of(folder)["ranges"])))
        wanted += min(left, installation.settings.scoring_runs - 1)
    return wanted


def help_scoring(installation: Installation, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Score ranges of shards of whatever is laid open, until nothing is left to take.

    Args:
        installation: Where.
        should_stop: Asked between pieces of work.

    Returns:
        Users scored.

    Raises:
        ArtifactError: A model or a fit cannot be read.
    """
    n_users = 0
    for folder in _open_folders(installation):
        try:
            n_users += _help_one(installation, folder, should_stop)
        except (FileNotFoundError, CancelledError):
            continue  # the run that laid it open has ended, or this one is to end
        except ArtifactError:
            if folder.exists():
                raise
    return n_users


def publish_scoring(folder: Path, fit: Any, plan: dict[str, Any]) -> None:
    """Write what helpers need into the folder: the fit without its seed, and last the plan, which they look for.

    Args:
        folder: Below the scratch folder, seen by all hosts.
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
    tell: Callable[[float], None],
) -> Float64:
    """Score ranges that nobody has taken, take over those of silent helpers, and wait for the others.

    Args:
        engine: Scores.
        folder: Where claims and scores are.
        fitted: The model and the fit.
        ranges: The shards of each range.
        tell: Given the share that is done; raises to stop.

    Returns:
        One score for each user of the model, in the model's order.
    """
    from cleanroom_pipelines.similarity.scoring import score_users

    model, fit = fitted
    n_ranges = len(ranges)
    while missing := [k for k in range(n_ranges) if not _scores_file(folder, k).exists()]:
        share = 1 - len(missing) / n_ranges
        tell(share)
        mine = next((k for k in missing if _take(folder, k) or _is_silent(folder, f"{k}.claim")), None)
        if mine is None:
            os.utime(folder / _PLAN)
            time.sleep(_LOOK_SECONDS)
            continue

        def on_share(done: float, before: float = share, claim: int = mine) -> None:
            tell(before + done / n_ranges)
            os.utime(folder / f"{claim}.claim")
            if n_ranges > 1:
                os.utime(folder / _PLAN)

        _keep(folder, mine, score_users(engine, model, fit.scorer, range(*ranges[mine]), on_share))
    return np.concatenate([np.load(_scores_file(folder, k), allow_pickle=False) for k in range(n_ranges)])


def _help_one(installation: Installation, folder: Path, should_stop: Callable[[], bool]) -> int:
    from cleanroom_pipelines.similarity.fits import load_fit
    from cleanroom_pipelines.similarity.model import Model
    from cleanroom_pipelines.similarity.scoring import score_users
    from cleanroom_pipelines.similarity.training import one_blas_thread

    plan = _plan_of(folder)
    ranges = plan["ranges"]
    n_users = 0
    # From the end, where the run that laid it open comes last.
    taken = (k for k in reversed(range(len(ranges))) if _take(folder, k))
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
                os.utime(claim)  # raises where the folder is gone, and nobody wants the scores
                if should_stop():
                    raise CancelledError("The work was cancelled.")

            try:
                scores = score_users(engine, model, fit.scorer, range(*ranges[number]), on_share)
            except BaseException:
                claim.unlink(missing_ok=True)  # somebody else may take it at once
                raise
            _keep(folder, number, scores)
            n_users += len(scores)
    return n_users


def _chained(first: int, others: Iterator[int]) -> Iterator[int]:
    yield first
    yield from others


def _open_folders(installation: Installation) -> list[Path]:
    """What is laid open by runs that are alive: a killed one leaves its folder, and nobody wants those scores."""
    folders = sorted(path.parent for path in installation.home.scratch_root.glob(f"{_PREFIX}*/{_PLAN}"))
    return [folder for folder in folders if not _is_silent(folder, _PLAN)]


def _plan_of(folder: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads((folder / _PLAN).read_text())
    except FileNotFoundError:
        return {"ranges": []}
    return plan


def _take(folder: Path, number: int) -> bool:
    """Claim a range; only one of all who try does."""
    try:
        os.close(os.open(folder / f"{number}.claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def _is_silent(folder: Path, name: str) -> bool:
    """Whether whoever touches a file has not for a minute, by the clock of the file system."""
    clock = folder / "clock"
    try:
        clock.touch()
        age = clock.stat().st_mtime - (folder / name).stat().st_mtime
    except FileNotFoundError:
        return False
    return age > _SILENT_SECONDS


def _keep(folder: Path, number: int, scores: Float64) -> None:
    """Write scores, whole or not at all; who is late writes the same bytes."""
    target = _scores_file(folder, number)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(handle, "wb") as stream:
        np.save(stream, scores, allow_pickle=False)
        stream.flush()
        # The host that reads it may be another one, and outlive this one.
        os.fsync(stream.fileno())
    Path(name).replace(target)


def _scores_file(folder: Path, number: int) -> Path:
    return folder / f"{number}.npy"
