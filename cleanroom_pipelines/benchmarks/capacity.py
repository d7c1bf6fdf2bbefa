"""Extrapolate the costs of larger populations from two measured sizes on both engines.

Lives here: costs per interaction and per user as slopes between the two sizes, and their extrapolation.
Add here when the scale benchmark measures another cost.
Keep out: measuring (scale); advice for installations (engine/CAPACITY.md).

Each cost is a straight line through the two measured sizes: cost(x) = fixed + slope · x, where x is interactions
for training and users otherwise. For times, the fixed part (startup, fits) is as measured on the benchmark's two
cores; the growing part is divided by the number of cores, assuming perfect scaling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cleanroom_pipelines.errors import UsageError

_MEASURED_CORES = 2
SIZES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)


@dataclass(frozen=True)
class Line:
    """A cost that grows linearly with the number of interactions or users.

    Args:
        fixed: Cost at size 0; at least 0.
        slope: Cost per additional interaction or user.
    """

    fixed: float
    slope: float

    @classmethod
    def through(cls, smaller: tuple[float, float], larger: tuple[float, float]) -> "Line":
        """Return the line through two measured points; a cost that did not grow has slope 0."""
        slope = max(0.0, (larger[1] - smaller[1]) / (larger[0] - smaller[0]))
        return cls(max(0.0, smaller[1] - slope * smaller[0]), slope)

    def at(self, size: float) -> float:
        """Return the cost at a given size."""
        return self.fixed + self.slope * size


@dataclass(frozen=True)
class Costs:
    """The costs of one benchmark step on one engine, each as a line over the data's size.

    Args:
        unit: `interactions` or `users`.
        cpu_seconds: CPU time of all processes.
        peak_bytes: Memory of all processes together; None on Spark, whose Java processes use all the memory they
            are given.
        disk_bytes: Bytes spilled by the engine, or scratch files on shared storage.
        shuffle_bytes: Bytes shuffled between executors.
        kept_bytes: Size of the result: the model, the ranking, the list, or the export's files.
        python_bytes: On Spark, memory of driver and tasks in Python at the larger size.
        task_bytes: On Spark, peak memory of a task in Java for sorting and grouping at the larger size.
    """

    unit: str
    cpu_seconds: Line
    peak_bytes: Line | None
    disk_bytes: Line
    shuffle_bytes: Line
    kept_bytes: Line
    python_bytes: float = 0
    task_bytes: float = 0


_KEPT = {
    "train": "model_bytes",
    "generate": "ranking_bytes",
    "export": "export_bytes",
    "match": "list_bytes",
    "combine": "list_bytes",
}


def costs_of(result: Mapping[str, Any]) -> dict[str, Costs]:
    """Return the costs of each step on each engine; the keys have the form `engine: step`.

    Args:
        result: The result of `scale.run_scale` for two or more sizes; the first and the last are used.

    Raises:
        UsageError: There are fewer than two sizes, or a step failed or is missing.
    """
    rows = result["sizes"]
    if len(rows) < 2 or rows[0]["n_users"] == rows[-1]["n_users"]:
        raise UsageError(
            "Capacity estimates need results for two sizes.",
            remedy="Run `benchmark scale` with two sizes and --json.",
        )
    smaller, larger = rows[0], rows[-1]
    pairs = [
        (one, other)
        for one in smaller["steps"]
        for other in larger["steps"]
        if one["step"] == other["step"] and one["step"].partition(": ")[2].startswith(tuple(_KEPT))
    ]
    if not pairs or any("failed" in step for pair in pairs for step in pair):
        raise UsageError("A step of the benchmark failed or is missing.", remedy="Run the benchmark again.")
    found = {}
    for one, other in pairs:
        engine, _, step = one["step"].partition(": ")
        name = step.split()[0]
        unit = "interactions" if name == "train" else "users"

        def line(cost: str, unit: str = unit, one: Any = one, other: Any = other) -> Line:
            points = ((row[f"n_{unit}"], step.get(cost, 0)) for row, step in ((smaller, one), (larger, other)))
            return Line.through(*points)

        found[f"{engine}: {name}"] = Costs(
            unit,
            line("cpu_seconds"),
            None if _is_spark(engine) else line("peak_bytes"),
            line("spill_bytes"),
            line("shuffle_bytes"),
            line(_KEPT[name]),
            other.get("python_bytes", 0),
            other.get("task_bytes", 0),
        )
    return found


def table(
    result: Mapping[str, Any],
    *,
    sizes: Sequence[int] = SIZES,
    interactions_per_user: int = 20,
    cores: int = 16,
    cluster_cores: int = 128,
) -> str:
    """Format the costs as markdown: the linear costs, then the extrapolated ones.

    Args:
        result: As for `costs_of`.
        sizes: Numbers of users.
        interactions_per_user: Interactions per user, for training.
        cores: Cores of the machine that runs DuckDB.
        cluster_cores: Cores of the Spark cluster.
    """
    costs = costs_of(result)
    lines = ["| step | per | CPU seconds | memory | disk | shuffle | kept |", "|---|---|--:|--:|--:|--:|--:|"]
    for name, cost in costs.items():
        memory = f"{_bytes(cost.python_bytes)} Python, {_bytes(cost.task_bytes)} a task in Java"
        if cost.peak_bytes:
            memory = _line(cost.peak_bytes, 1e-6, " MB")
        amounts = " | ".join(_line(amount, 1e-6, " MB") for amount in _amounts(cost))
        seconds = _line(cost.cpu_seconds, 1.0, " s")
        lines.append(f"| {name} | million {cost.unit} | {seconds} | {memory} | {amounts} |")
    lines += [
        "",
        f"| users | step | time on {cores} or {cluster_cores} cores | memory | disk | shuffle | kept |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for n_users in sizes:
        for name, cost in costs.items():
            size = n_users * (interactions_per_user if cost.unit == "interactions" else 1)
            spread = cost.cpu_seconds.slope * size / (cluster_cores if _is_spark(name) else cores)
            seconds_there = cost.cpu_seconds.fixed / _MEASURED_CORES + spread
            memory = _bytes(cost.peak_bytes.at(size)) if cost.peak_bytes else "not measured"
            amounts = " | ".join(_bytes(amount.at(size)) for amount in _amounts(cost))
            lines.append(f"| {n_users:,} | {name} | {_time(seconds_there)} | {memory} | {amounts} |")
    return "\n".join(lines)


def _is_spark(name: str) -> bool:
    return name.startswith("spark")


def _amounts(cost: Costs) -> tuple[Line, ...]:
    return cost.disk_bytes, cost.shuffle_bytes, cost.kept_bytes


def _line(line: Line, scale: float, unit: str) -> str:
    return f"{line.fixed * scale:.4g} + {line.slope * 1e6 * scale:.3g}{unit}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _bytes(n_bytes: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e6:.0f} MB"
