"""The scale benchmark: seconds, memory, spill and shuffle of each heavy step, compared with other libraries.

Lives here: running each step in its own process, monitoring its process tree, marginal costs, the table.
Add here when another cost should be measured.
Keep out: the code of the steps (steps), the data (synthetic).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from cleanroom_pipelines.benchmarks.algebra import AlgebraSettings, write_lists, write_room
from cleanroom_pipelines.benchmarks.synthetic import (
    SyntheticSettings,
    copied_seed,
    copy_model,
    n_users_to_copy,
    seed_ids,
    write_interactions,
)
from cleanroom_pipelines.engine import Progress
from cleanroom_pipelines.errors import UsageError

PEERS = ("als", "pandas")
ENGINES = ("duckdb", "spark")
STEPS = ("train", "generate", "export", "match", "combine")
_NEEDS = {"export": "generate"}
_WATCH_SECONDS = 0.2
_SEED_INTEREST = 7
# If the interactions of two sizes differ by less than this share, costs are per user.
_ALIKE = 0.1


@dataclass(frozen=True)
class ScaleSettings:
    """Settings of the scale benchmark.

    Args:
        sizes: (users, interactions) pairs.
        seed_sizes: Numbers of seed users, one generation for each.
        n_items: Number of items.
        memory_bytes: Memory of the engine.
        threads: Threads of every step.
        engines: `duckdb`, `spark`; each runs every step on the same data.
        steps: Some of `train`, `generate`, `export`, `match` and `combine`, each with the steps it needs. Without
            `train`, users are ranked by a model whose shards are copies of a small model.
        spark_url: URL of the cluster; None for `local[threads]` on this machine.
        peers: `als`, `pandas`.
        scratch: Existing directory for data, models and spill; None for the system's temporary one.
        random_seed: Random seed of the data.

    Raises:
        UsageError: A step is unknown, or a step that it needs is missing.
    """

    sizes: Sequence[tuple[int, int]] = ((50_000, 1_000_000), (200_000, 4_000_000))
    seed_sizes: Sequence[int] = (10_000,)
    n_items: int = 20_000
    memory_bytes: int = 4 << 30
    threads: int = 2
    engines: Sequence[str] = ("duckdb",)
    steps: Sequence[str] = STEPS
    spark_url: str | None = None
    peers: Sequence[str] = PEERS
    scratch: Path | None = None
    random_seed: int = 0

    def __post_init__(self) -> None:
        if not self.steps or set(self.steps) - {*STEPS}:
            raise UsageError("Unknown step.", remedy=f"Choose from: {', '.join(STEPS)}.")
        for step, needed in _NEEDS.items():
            if step in self.steps and needed not in self.steps:
                raise UsageError(f"The step {step} needs the step {needed}.", remedy="Give both steps.")


def run_scale(settings: ScaleSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Generate data of each size, and run each of our steps and each compared library in its own process.

    Steps are training, generating, exporting all users, matching a hashed seed of a tenth of the users with a
    base of all users, and combining five lists of up to as many ids.

    Args:
        settings: Settings of the benchmark.
        progress: Called with the share done and the step.

    Returns:
        Per size the seconds, CPU seconds, peak bytes of the process tree and peak spill bytes of each step, and on
        Spark the shuffled bytes, the peak bytes of Python processes, and the peak bytes of a task in Java; seconds
        per additional million interactions between consecutive sizes, or per additional million users if the
        interactions are about equal; the ratio to ALS.
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
    return {"sizes": rows, "further": costs_of_growth(rows)}


def table(result: Mapping[str, Any]) -> str:
    """Format the result as a plain text table."""
    lines = []
    for row in result["sizes"]:
        lines.append(f"{row['n_users']:,} users, {row['n_interactions']:,} interactions")
        lines.append(
            f"  {'step':42}{'seconds':>10}{'CPU s':>10}{'peak GiB':>10}{'spill GiB':>11}{'shuffle GiB':>13}"
        )
        for step in row["steps"]:
            if "failed" in step:
                lines.append(f"  {step['step']:42}{step['failed']}")
                continue
            lines.append(
                f"  {step['step']:42}{step['seconds']:>10.1f}{step['cpu_seconds']:>10.1f}"
                f"{step['peak_bytes'] / 2**30:>10.2f}{step['spill_bytes'] / 2**30:>11.2f}"
                f"{step.get('shuffle_bytes', 0) / 2**30:>13.2f}"
                f"  {step.get('sentence', '')}"
            )
        if row.get("training_to_als"):
            lines.append(
                f"  training takes {row['training_to_als']:.2f} times as long as ALS (both with the pairs table)"
            )
        lines += [
            f"  Spark takes {ratio:.2f} times as long as DuckDB to {label}"
            for label, ratio in row.get("spark_to_duckdb", {}).items()
        ]
    lines += [
        f"{entry['engine']}, {entry['from']:,} to {entry['to']:,} {entry['unit']}, per additional million: "
        f"{entry['seconds_per_million']:.2f} s, {entry['cpu_seconds_per_million']:.2f} CPU s"
        for entry in result["further"]
    ]
    return "\n".join(lines)


def _measure(settings: ScaleSettings, data: SyntheticSettings, folder: Path, report: Any) -> dict[str, Any]:
    report("generating data")
    interactions = folder / "interactions"
    interactions.mkdir()
    n_rows = write_interactions(data, interactions) if "train" in settings.steps else data.n_interactions
    lists = folder / "lists"
    lists.mkdir()
    of_lists = AlgebraSettings(data.n_users, threads=settings.threads)
    if "combine" in settings.steps:
        write_lists(lists, of_lists)
    if "match" in settings.steps:
        write_room(lists, of_lists)
    common = {
        "interactions": str(interactions),
        "lists": str(lists),
        "pairs": str(folder / "pairs.parquet"),
        "memory_bytes": settings.memory_bytes,
        "threads": settings.threads,
    }
    steps = []

    def step(name: str, label: str, **arguments: Any) -> dict[str, Any]:
        report(label)
        measured = {"step": label, **_run(name, common | arguments, folder)}
        steps.append(measured)
        return measured

    trained = {}
    for engine in settings.engines:
        url = (settings.spark_url or f"local[{settings.threads}]") if engine == "spark" else None
        model_folder = folder / f"model-{engine}"
        model = {"model": str(model_folder), "engine": url}
        if "train" in settings.steps:
            trained[engine] = step("train", f"{engine}: train", **model)
        elif "generate" in settings.steps:
            report("copying a model")
            _copy_model(settings, data, common, model_folder)
        last = None
        for n_seed in settings.seed_sizes if "generate" in settings.steps else ():
            seed = folder / f"seed-{n_seed}.csv"
            is_copied = "train" not in settings.steps
            seed_users = copied_seed(_seed(_small(data), n_seed)) if is_copied else _seed(data, n_seed)
            seed.write_text("\n".join(["user_id", *seed_users]), "utf-8")
            last = str(folder / f"out-{engine}-{n_seed}")
            step("generate", f"{engine}: generate from {n_seed:,} seed users", **model, seed=str(seed), out=last)
        for name, label in (("export", "export all users"), ("match", "match"), ("combine", "combine five lists")):
            if name in settings.steps and (name != "export" or last):
                where = str(folder / f"{name}-{engine}")
                step(name, f"{engine}: {label}", engine=url, out=where, audience=last)
    ratio = None
    if "als" in settings.peers and "duckdb" in trained:
        pairs = step("pairs", "pairs table for implicit")
        als = step("als", "implicit ALS, 64 factors, 15 rounds")
        if all("seconds" in entry for entry in (trained["duckdb"], pairs, als)):
            ratio = trained["duckdb"]["seconds"] / (pairs["seconds"] + als["seconds"])
    if "pandas" in settings.peers and settings.seed_sizes and {"train", "generate"} <= set(settings.steps):
        step("pandas", "pandas + scikit-learn", seed=str(folder / f"seed-{settings.seed_sizes[0]}.csv"))
    shutil.rmtree(interactions)
    shutil.rmtree(lists)
    return {
        "n_users": data.n_users,
        "n_interactions": n_rows,
        "steps": steps,
        "training_to_als": ratio,
        "spark_to_duckdb": _ratios(steps),
    }


def _small(data: SyntheticSettings) -> SyntheticSettings:
    """Return the settings of the small model whose copies make up a large one if training is not measured."""
    n_users = n_users_to_copy(data.n_users)
    return replace(data, n_users=n_users, n_interactions=data.n_interactions * n_users // data.n_users)


def _copy_model(settings: ScaleSettings, data: SyntheticSettings, common: Mapping[str, Any], out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="small-", dir=settings.scratch) as name:
        interactions, model = Path(name, "interactions"), Path(name, "model")
        interactions.mkdir()
        write_interactions(_small(data), interactions)
        _run("train", {**common, "interactions": str(interactions), "model": str(model)}, Path(name))
        copy_model(model, out, data.n_users)


def _ratios(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return Spark's time as a multiple of DuckDB's time, by step."""
    seconds = {step["step"]: step["seconds"] for step in steps if "seconds" in step}
    return {
        label.removeprefix("spark: "): value / seconds[label.replace("spark: ", "duckdb: ")]
        for label, value in seconds.items()
        if label.startswith("spark: ") and label.replace("spark: ", "duckdb: ") in seconds
    }


def _seed(data: SyntheticSettings, n: int) -> list[str]:
    """Choose n seed users with one interest; if too few have it, add users with the next interests."""
    ids: list[str] = []
    for interest in range(_SEED_INTEREST, _SEED_INTEREST + data.n_interests):
        if len(ids) >= n:
            break
        ids += seed_ids(data, interest % data.n_interests, n - len(ids))
    return ids


def _run(name: str, arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run one step, and monitor the memory of its processes and its spilled bytes."""
    import psutil

    spill, log = folder / "spill", folder / "spark-log"
    spill.mkdir(exist_ok=True)
    environment = dict(os.environ)
    if arguments.get("engine"):
        environment["SPARK_CONF_DIR"] = str(_spark_settings(folder / "spark-conf", log))
    command = [
        sys.executable,
        "-m",
        "cleanroom_pipelines.benchmarks.steps",
        name,
        json.dumps({**arguments, "scratch": str(spill)}),
    ]
    started = perf_counter()
    with (folder / "answer").open("w+b") as answer:
        process = subprocess.Popen(command, stdout=answer, stderr=subprocess.DEVNULL, env=environment)  # noqa: S603 our own module
        watched = psutil.Process(process.pid)
        peak, of_python, spilled = 0, 0, 0
        # Seconds of every process seen: a child's seconds count for its parent only after the child has ended.
        cpu: dict[int, float] = {}
        while process.poll() is None:
            try:
                tree = [watched, *watched.children(recursive=True)]
                held = {member: member.memory_info().rss for member in tree}
                peak = max(peak, sum(held.values()))
                of_python = max(of_python, sum(size for member, size in held.items() if member.name() != "java"))
                for member in tree:
                    times = member.cpu_times()
                    cpu[member.pid] = times.user + times.system
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
    measured = {"seconds": seconds, "cpu_seconds": sum(cpu.values()), "peak_bytes": peak, "spill_bytes": spilled}
    if arguments.get("engine"):
        measured |= {"python_bytes": of_python} | _spark_metrics(log)
    return {**measured, **found}


def _spark_settings(folder: Path, log: Path) -> Path:
    """Write Spark settings that enable its event log."""
    folder.mkdir(exist_ok=True)
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir()
    settings = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": log.as_uri(),
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
    }
    lines = "".join(f"{name} {value}\n" for name, value in settings.items())
    (folder / "spark-defaults.conf").write_text(lines, "utf-8")
    return folder


def _spark_metrics(log: Path) -> dict[str, int]:
    """Read the shuffled, spilled and peak execution bytes of one step's tasks from Spark's event log."""
    shuffled, spilled, held = 0, 0, 0
    for file in log.iterdir():
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if '"SparkListenerTaskEnd"' not in line:
                    continue
                metrics = json.loads(line).get("Task Metrics") or {}
                shuffled += metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
                spilled += metrics.get("Disk Bytes Spilled", 0)
                held = max(held, metrics.get("Peak Execution Memory", 0))
    return {"shuffle_bytes": shuffled, "shuffle_spill_bytes": spilled, "task_bytes": held}


def _sizes(folder: Path) -> Iterable[int]:
    # Not rglob, which raises if a folder is deleted during the walk, as the step's own folders are.
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(parent, name).stat().st_size
            except OSError:
                continue


def costs_of_growth(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the cost of training per additional million interactions; if these hardly grow, per million users.

    Args:
        rows: The sizes of a result, smallest first.
    """
    result = []
    for smaller, larger in pairwise(rows):
        steps = zip(_trainings(smaller), _trainings(larger), strict=True)
        is_alike = larger["n_interactions"] < (1 + _ALIKE) * smaller["n_interactions"]
        unit = "users" if is_alike else "interactions"
        millions = (larger[f"n_{unit}"] - smaller[f"n_{unit}"]) / 1e6
        result += [
            {
                "engine": after["step"].partition(":")[0],
                "unit": unit,
                "from": smaller[f"n_{unit}"],
                "to": larger[f"n_{unit}"],
                "seconds_per_million": (after["seconds"] - before["seconds"]) / millions,
                "cpu_seconds_per_million": (after["cpu_seconds"] - before["cpu_seconds"]) / millions,
            }
            for before, after in steps
            if millions > 0 and "failed" not in before and "failed" not in after
        ]
    return result


def _trainings(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [step for step in row["steps"] if step["step"].endswith(": train")]
