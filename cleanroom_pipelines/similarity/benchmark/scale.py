"""The scale benchmark: seconds, memory and spill of training and generating, beside what else is there.

Lives here: running each step as a process, watching its tree, costs per further million, the table.
Add here when another cost should be watched.
Keep out: what the steps do (steps), the data (synthetic).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from cleanroom_pipelines.similarity.benchmark.synthetic import (
    SyntheticSettings,
    seed_ids,
    write_interactions,
)
from cleanroom_pipelines.similarity.specs import Progress

PEERS = ("als", "pandas")
_WATCH_SECONDS = 0.2
_SEED_INTEREST = 7
# Sizes whose interactions differ by less than this are there to compare numbers of users.
_ALIKE = 0.1


@dataclass(frozen=True)
class ScaleSettings:
    """What to measure.

    Args:
        sizes: (users, interactions) pairs.
        seed_sizes: Seed users of the generations on each.
        n_items: Items.
        memory_bytes: Of the engine.
        threads: Of everything.
        peers: `als`, `pandas`.
        scratch: Existing directory for data, models and spill; None: the system's temporary one.
        random_seed: Of the data.
    """

    sizes: Sequence[tuple[int, int]] = ((50_000, 1_000_000), (200_000, 4_000_000))
    seed_sizes: Sequence[int] = (10_000,)
    n_items: int = 20_000
    memory_bytes: int = 4 << 30
    threads: int = 2
    peers: Sequence[str] = PEERS
    scratch: Path | None = None
    random_seed: int = 0


def run_scale(settings: ScaleSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Make data of each size, train, generate and run the peers, each in a process of its own.

    Args:
        settings: What to measure.
        progress: Told the share done and the step.

    Returns:
        Per size the seconds, CPU seconds, peak bytes of the process tree and peak spill bytes of each step;
        seconds per further million interactions between consecutive sizes, or per further million users where the
        interactions are alike; the ratio to ALS.
    """
    rows = []
    for number, (n_users, n_interactions) in enumerate(settings.sizes):
        with tempfile.TemporaryDirectory(prefix="scale-", dir=settings.scratch) as folder:
            rows.append(
                _measure(
                    settings,
                    SyntheticSettings(n_users, n_interactions, settings.n_items, random_seed=settings.random_seed),
                    Path(folder),
                    lambda step, number=number: progress(number / len(settings.sizes), step) if progress else None,
                )
            )
    return {"sizes": rows, "further": _further(rows)}


def table(result: Mapping[str, Any]) -> str:
    """The result as a plain text table."""
    lines = []
    for row in result["sizes"]:
        lines.append(f"{row['n_users']:,} users, {row['n_interactions']:,} interactions")
        lines.append(f"  {'step':34}{'seconds':>10}{'CPU s':>10}{'peak GiB':>10}{'spill GiB':>11}")
        for step in row["steps"]:
            if "failed" in step:
                lines.append(f"  {step['step']:34}{step['failed']}")
                continue
            lines.append(
                f"  {step['step']:34}{step['seconds']:>10.1f}{step['cpu_seconds']:>10.1f}"
                f"{step['peak_bytes'] / 2**30:>10.2f}{step['spill_bytes'] / 2**30:>11.2f}"
                f"  {step.get('sentence', '')}"
            )
        if row.get("training_to_als"):
            lines.append(f"  training takes {row['training_to_als']:.2f} of ALS (pairs table counted for both)")
    lines += [
        f"between {entry['from']:,} and {entry['to']:,} {entry['unit']}, per further million: "
        f"{entry['seconds_per_million']:.2f} s, {entry['cpu_seconds_per_million']:.2f} CPU s"
        for entry in result["further"]
    ]
    return "\n".join(lines)


def _measure(settings: ScaleSettings, data: SyntheticSettings, folder: Path, tell: Any) -> dict[str, Any]:
    tell("making data")
    interactions = folder / "interactions"
    interactions.mkdir()
    n_rows = write_interactions(data, interactions)
    common = {
        "interactions": str(interactions),
        "model": str(folder / "model"),
        "pairs": str(folder / "pairs.parquet"),
        "memory_bytes": settings.memory_bytes,
        "threads": settings.threads,
    }
    steps = []

    def step(name: str, label: str, **arguments: Any) -> dict[str, Any]:
        tell(label)
        measured = {"step": label, **_run(name, common | arguments, folder)}
        steps.append(measured)
        return measured

    trained = step("train", "train")
    for n_seed in settings.seed_sizes:
        seed = folder / f"seed-{n_seed}.csv"
        seed.write_text("\n".join(["user_id", *_seed(data, n_seed)]), "utf-8")
        step("generate", f"generate from {n_seed:,} seed users", seed=str(seed), out=str(folder / f"out-{n_seed}"))
    ratio = None
    if "als" in settings.peers:
        pairs = step("pairs", "pairs table for implicit")
        als = step("als", "implicit ALS, 64 factors, 15 rounds")
        if all("seconds" in entry for entry in (trained, pairs, als)):
            ratio = trained["seconds"] / (pairs["seconds"] + als["seconds"])
    if "pandas" in settings.peers and settings.seed_sizes:
        step("pandas", "pandas + scikit-learn", seed=str(folder / f"seed-{settings.seed_sizes[0]}.csv"))
    shutil.rmtree(interactions)
    return {
        "n_users": data.n_users,
        "n_interactions": n_rows,
        "steps": steps,
        "training_to_als": ratio,
    }


def _seed(data: SyntheticSettings, n: int) -> list[str]:
    """Seed users of one interest, and of the next ones where it has too few."""
    ids: list[str] = []
    for interest in range(_SEED_INTEREST, _SEED_INTEREST + data.n_interests):
        if len(ids) >= n:
            break
        ids += seed_ids(data, interest % data.n_interests, n - len(ids))
    return ids


def _run(name: str, arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run one step and watch its processes' memory and the bytes it spills."""
    import psutil

    spill = folder / "spill"
    spill.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "cleanroom_pipelines.similarity.benchmark.steps",
        name,
        json.dumps({**arguments, "scratch": str(spill)}),
    ]
    started = perf_counter()
    with (folder / "answer").open("w+b") as answer:
        process = subprocess.Popen(command, stdout=answer, stderr=subprocess.DEVNULL)  # noqa: S603 our own module
        watched = psutil.Process(process.pid)
        peak, spilled, cpu = 0, 0, 0.0
        while process.poll() is None:
            try:
                tree = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in tree))
                times = watched.cpu_times()
                cpu = times.user + times.system + times.children_user + times.children_system
            except psutil.Error:
                pass
            spilled = max(spilled, sum(_sizes(spill)))
            sleep(_WATCH_SECONDS)
        seconds = perf_counter() - started
        answer.seek(0)
        text = answer.read().decode()
    if process.returncode != 0:
        return {"failed": f"failed with exit code {process.returncode} after {seconds:.0f} s"}
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, "spill_bytes": spilled, **found}


def _sizes(folder: Path) -> Iterable[int]:
    # Not rglob: it raises where a folder goes while it looks, as the step's own do.
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(parent, name).stat().st_size
            except OSError:
                continue


def _further(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What training costs per further million of what grew: interactions, or users where those stayed alike."""
    result = []
    for smaller, larger in pairwise(rows):
        before, after = smaller["steps"][0], larger["steps"][0]
        if "failed" in before or "failed" in after:
            continue
        is_alike = larger["n_interactions"] < (1 + _ALIKE) * smaller["n_interactions"]
        unit = "users" if is_alike else "interactions"
        millions = (larger[f"n_{unit}"] - smaller[f"n_{unit}"]) / 1e6
        if millions <= 0:
            continue
        result.append(
            {
                "unit": unit,
                "from": smaller[f"n_{unit}"],
                "to": larger[f"n_{unit}"],
                "seconds_per_million": (after["seconds"] - before["seconds"]) / millions,
                "cpu_seconds_per_million": (after["cpu_seconds"] - before["cpu_seconds"]) / millions,
            }
        )
    return result
