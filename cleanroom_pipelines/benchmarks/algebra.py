"""Speed of audience set algebra, compared with hand-written SQL and polars.

Lives here: the lists, the queries, running each implementation in its own process, the table;
`python -m cleanroom_pipelines.benchmarks.algebra JSON` is one such process.
Add here when another implementation or another query is to be measured.
Keep out: optimisations for the benchmark alone; it measures the code that `cleanroom algebra` and data rooms run.

All implementations read the same parquet files, remove duplicate ids (one id in a hundred is repeated in the
lists), and write unordered parquet with level 1 of zstd. The benchmark measures the seconds from the end of
library imports until the file is written, and the peak memory of the process and its children.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time, sleep
from typing import Any

from cleanroom_pipelines.audiences.definitions import Definition, parse_definition
from cleanroom_pipelines.engine import (
    EngineSettings,
    Progress,
    find_tables,
    open_configured_engine,
    open_engine,
    stable_hash_sql,
)

OURS = "cleanroom"
HAND_WRITTEN = ("SQL, joins", "SQL, set operations", "SQL, one GROUP BY")
POLARS = ("polars, streaming", "polars, in memory")
# Percentage of all ids in each list.
_SHARES = (100, 50, 40, 30, 60)
_OPERATORS = {
    "intersections": ("INTERSECT", "INTERSECT", "INTERSECT", "INTERSECT"),
    "differences": ("DIFF", "DIFF", "DIFF", "DIFF"),
    "unions": ("UNION", "UNION", "UNION", "UNION"),
    "mixed": ("INTERSECT", "UNION", "DIFF", "INTERSECT"),
}
MATCHING = "matching"
QUESTIONS = (*_OPERATORS, MATCHING)
_SEED_SHARE = 0.1
_TYPE = "customers"
_WATCH_SECONDS = 0.02


@dataclass(frozen=True)
class AlgebraSettings:
    """Settings of the algebra benchmark.

    Args:
        n_ids: Ids in the largest list, and rows of the base to match.
        repetitions: Runs of each implementation per query, interleaved; at least 1.
        threads: Threads of each implementation.
        scratch: Existing directory for lists and results; None for the system's temporary one.
        questions: Queries to run, from `QUESTIONS`.
    """

    n_ids: int = 10_000_000
    repetitions: int = 3
    threads: int = 2
    scratch: Path | None = None
    questions: Sequence[str] = QUESTIONS


def run_algebra(settings: AlgebraSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Run the queries with every implementation, interleaved.

    Args:
        settings: Settings of the benchmark.
        progress: Called with the share done and the step.

    Returns:
        Per query: the ids found; per implementation the median seconds and CPU seconds and the peak bytes; ours as
        a multiple of the best hand-written SQL (if any) and of the better polars engine; whether results agree.
    """
    questions = settings.questions
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="algebra-", dir=settings.scratch) as name:
        folder = Path(name)
        show: Progress = progress or (lambda share, step: None)
        show(0.0, "writing lists")
        write_lists(folder, settings)
        write_room(folder, settings)
        for number, question in enumerate(questions):
            report = partial(_report, show, (number + 0.5) / len(questions), question)
            results[question] = _measure(question, folder, settings, report)
    return {
        "n_ids": settings.n_ids,
        "n_seed": round(settings.n_ids * _SEED_SHARE),
        "repetitions": settings.repetitions,
        "threads": settings.threads,
        "questions": results,
    }


def _report(progress: Progress, share: float, question: str, way: str) -> None:
    progress(share, f"{question}: {way}")


def table(result: Mapping[str, Any]) -> str:
    """Format the result as a plain text table."""
    lines = [
        f"lists of up to {result['n_ids']:,} ids, {result['threads']} threads, medians of {result['repetitions']}"
    ]
    for question, row in result["questions"].items():
        same = "all results agree" if row["is_same"] else "RESULTS DIFFER"
        what = f"{result['n_seed']:,} hashed seed rows with the base" if question == MATCHING else "five lists"
        lines.append(f"{question}, {what}: {row['n_found']:,} ids found, {same}")
        for way, measured in row["ways"].items():
            if "failed" in measured:
                lines.append(f"  {way:22}{measured['failed']}")
                continue
            seconds = ", ".join(f"{each:.2f}" for each in measured["all_seconds"])
            lines.append(
                f"  {way:22}{measured['seconds']:>8.2f} s{measured['cpu_seconds']:>8.2f} CPU s"
                f"{measured['peak_bytes'] / 2**30:>8.2f} GiB   ({seconds})"
            )
        ratios = [
            f"{row[key]['seconds']:.2f} times ({row[key]['cpu_seconds']:.2f} in CPU seconds) {words}"
            for key, words in (("to_sql", "the best hand-written SQL"), ("to_polars", "the better polars engine"))
            if row[key]
        ]
        lines.append(f"  ours takes {' and '.join(ratios)}")
    return "\n".join(lines)


def _measure(
    question: str, folder: Path, settings: AlgebraSettings, report: Callable[[str], None]
) -> dict[str, Any]:
    hand_written = HAND_WRITTEN if question in _OPERATORS else ()
    ways: Sequence[str] = (OURS, *hand_written, *POLARS)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    found = set()
    for _ in range(settings.repetitions):
        for way in ways:
            report(way)
            out = folder / "out.parquet"
            runs[way].append(_run(way, question, folder, out, settings))
            if "failed" not in runs[way][-1]:
                found.add(_digest(out))
            out.unlink(missing_ok=True)
        # Hand-written SQL that takes twice as long as the best is not run again.
        best = min((_seconds(runs[way]) for way in hand_written), default=0.0)
        ways = [way for way in ways if way not in hand_written or _seconds(runs[way]) < 2 * best]
    measured = {way: _summary(each) for way, each in runs.items()}
    return {
        "n_found": max((n_ids for n_ids, _ in found), default=0),
        "is_same": len(found) == 1,
        "ways": measured,
        "to_sql": _ratio(measured, hand_written),
        "to_polars": _ratio(measured, POLARS),
    }


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    failed = [run["failed"] for run in runs if "failed" in run]
    if failed:
        return {"failed": failed[0]}
    return {
        "seconds": _seconds(runs),
        "cpu_seconds": float(median(run["cpu_seconds"] for run in runs)),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "all_seconds": [run["seconds"] for run in runs],
    }


def _seconds(runs: Sequence[Mapping[str, Any]]) -> float:
    return float(median(run.get("seconds", float("inf")) for run in runs))


def _ratio(measured: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> dict[str, float]:
    """Return our time as a multiple of the fastest other implementation's time, for each measure."""
    found = {}
    for measure in ("seconds", "cpu_seconds"):
        best = min((measured[way][measure] for way in others if measure in measured[way]), default=None)
        if best and measure in measured[OURS]:
            found[measure] = measured[OURS][measure] / best
    return found


def _run(way: str, question: str, folder: Path, out: Path, settings: AlgebraSettings) -> dict[str, Any]:
    """Run a query with one implementation in its own process; return its times and peak memory."""
    import psutil

    spill = folder / "spill"
    spill.mkdir(exist_ok=True)
    arguments = {
        "way": way,
        "question": question,
        "folder": str(folder),
        "out": str(out),
        "threads": settings.threads,
        "scratch": str(spill),
    }
    command = [sys.executable, "-m", "cleanroom_pipelines.benchmarks.algebra", json.dumps(arguments)]
    environment = {**os.environ, "POLARS_MAX_THREADS": str(settings.threads), "POLARS_TEMP_DIR": str(spill)}
    with (folder / "answer").open("w+b") as answer:
        process = subprocess.Popen(command, stdout=answer, stderr=subprocess.DEVNULL, env=environment)  # noqa: S603 ours
        watched = psutil.Process(process.pid)
        peak = 0
        while process.poll() is None:
            try:
                tree = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in tree))
            except psutil.Error:
                pass
            sleep(_WATCH_SECONDS)
        answer.seek(0)
        text = answer.read().decode()
    if process.returncode != 0:
        return {"failed": f"failed with exit code {process.returncode}"}
    measured = json.loads(text.splitlines()[-1])
    return {"seconds": measured["seconds"], "cpu_seconds": measured["cpu_seconds"], "peak_bytes": peak}


def _digest(out: Path) -> tuple[int, int]:
    """Return the number of rows and the sum of their hashes, which do not depend on the order of the rows."""
    with open_engine(paths=[out]) as engine:
        engine.scan("found", find_tables(out))
        sums = engine.fetch(
            f"SELECT count(*) AS n, CAST(sum({stable_hash_sql('user_id')}) % 1000000007 AS BIGINT) AS s FROM found"
        ).to_pylist()
    return sums[0]["n"], sums[0]["s"] or 0


def _lists(folder: Path) -> list[Path]:
    return [folder / f"list-{number}.parquet" for number in range(len(_SHARES))]


def write_lists(folder: Path, settings: AlgebraSettings) -> None:
    """Write the input lists: each has a different share of the ids, and 1 % of its ids twice."""
    # Hashes determine the ids of each list and their order, so that the lists are independent of each other.
    with open_engine(EngineSettings(threads=settings.threads), paths=[folder]) as engine:
        for number, (file, share) in enumerate(zip(_lists(folder), _SHARES, strict=True)):
            engine.write_parquet(
                f"""SELECT md5(CAST(number AS VARCHAR)) AS user_id FROM range(?) AS ids(number)
                CROSS JOIN (VALUES (0), (1)) AS copies(copy)
                WHERE {stable_hash_sql("number || '-' || ?")} % 100 < ? AND (copy = 0 OR number % 100 = ?)""",
                file,
                [settings.n_ids, number, share, number],
            )


def write_room(folder: Path, settings: AlgebraSettings) -> None:
    """Write a room's base audience, and a hashed seed a tenth of its size; half of the seed's rows match."""
    n_seed = round(settings.n_ids * _SEED_SHARE)
    users = "SELECT md5(CAST(number AS VARCHAR)) AS user_id FROM range(?) AS ids(number)"
    with open_engine(EngineSettings(threads=settings.threads), paths=[folder]) as engine:
        engine.write_parquet(
            f"""SELECT user_id, {stable_hash_sql("user_id")} AS stable_hash, CAST(NULL AS VARCHAR) AS age,
            CAST(NULL AS VARCHAR) AS gender, true AS is_relevant, true AS is_matchable FROM ({users})
            ORDER BY stable_hash, user_id""",
            folder / "users.parquet",
            [settings.n_ids],
        )
        engine.write_parquet(
            """SELECT sha256(CAST(number AS VARCHAR)) AS digest, md5(CAST(number AS VARCHAR)) AS user_id
            FROM range(?) AS ids(number) ORDER BY digest""",
            folder / "matching.parquet",
            [settings.n_ids],
        )
        # Half of the seed matches.
        engine.write_parquet(
            """SELECT sha256(CAST(number + ? AS VARCHAR)) AS digest, ? AS audience_type
            FROM range(?) AS ids(number) ORDER BY digest""",
            folder / "seeds.parquet",
            [settings.n_ids - n_seed // 2, _TYPE, n_seed],
        )


def _definition(question: str, folder: Path) -> Definition:
    first, *others = ({"kind": "file", "path": str(file)} for file in _lists(folder))
    combinators = [
        {"operator": operator, "source": source}
        for operator, source in zip(_OPERATORS[question], others, strict=True)
    ]
    value = {"kind": "rule_based", "source": first, "combinators": combinators}
    return parse_definition(value, with_files=True)


_JOINS = {
    "intersections": """SELECT DISTINCT user_id FROM l0 SEMI JOIN l1 USING (user_id) SEMI JOIN l2 USING (user_id)
        SEMI JOIN l3 USING (user_id) SEMI JOIN l4 USING (user_id)""",
    "differences": """SELECT DISTINCT user_id FROM l0 ANTI JOIN (FROM l1 UNION ALL FROM l2 UNION ALL FROM l3
        UNION ALL FROM l4) AS taken_away USING (user_id)""",
    "unions": """SELECT DISTINCT user_id FROM (FROM l0 UNION ALL FROM l1 UNION ALL FROM l2 UNION ALL FROM l3
        UNION ALL FROM l4)""",
    "mixed": """SELECT DISTINCT user_id FROM (SELECT user_id FROM l0 SEMI JOIN l1 USING (user_id) UNION ALL
        SELECT user_id FROM l2) ANTI JOIN l3 USING (user_id) SEMI JOIN l4 USING (user_id)""",
}
_SETS = {
    "intersections": "FROM l0 INTERSECT FROM l1 INTERSECT FROM l2 INTERSECT FROM l3 INTERSECT FROM l4",
    "differences": "FROM l0 EXCEPT FROM l1 EXCEPT FROM l2 EXCEPT FROM l3 EXCEPT FROM l4",
    "unions": "FROM l0 UNION FROM l1 UNION FROM l2 UNION FROM l3 UNION FROM l4",
    "mixed": "(((FROM l0 INTERSECT FROM l1) UNION FROM l2) EXCEPT FROM l3) INTERSECT FROM l4",
}
_IN = {
    "intersections": "b = 31",
    "differences": "b = 1",
    "unions": "b > 0",
    "mixed": "(b & 3 = 3 OR b & 4 = 4) AND b & 8 = 0 AND b & 16 = 16",
}


def _answer(arguments: Mapping[str, Any]) -> Callable[[], None]:
    """Load an implementation, and return a function that runs the query."""
    way, question, threads = arguments["way"], arguments["question"], arguments["threads"]
    folder, out = Path(arguments["folder"]), Path(arguments["out"])
    settings = EngineSettings(threads=threads, scratch=Path(arguments["scratch"]))
    if way in POLARS:
        return _polars(question, folder, out, is_streaming=way == POLARS[0])
    if way == OURS:
        return prepare(question, folder, out, settings)
    lists = _lists(folder)
    flagged = (f"SELECT user_id, {1 << number} AS b FROM l{number}" for number in range(len(lists)))
    one_group_by = f"SELECT user_id, bit_or(b) AS b FROM ({' UNION ALL '.join(flagged)}) GROUP BY user_id"
    sql = {
        HAND_WRITTEN[0]: _JOINS[question],
        HAND_WRITTEN[1]: _SETS[question],
        HAND_WRITTEN[2]: f"SELECT user_id FROM ({one_group_by}) WHERE {_IN[question]}",
    }[way]

    def answer() -> None:
        with open_engine(settings, paths=[*lists, out.parent]) as engine:
            for number, file in enumerate(lists):
                engine.scan(f"l{number}", find_tables(file))
            engine.write_parquet(sql, out)

    return answer


def prepare(question: str, folder: Path, out: Path, settings: EngineSettings) -> Callable[[], None]:
    """Load our implementation, and return a function that writes the result.

    Args:
        question: `matching`, or one of the queries over five lists.
        folder: The folder that `write_lists` or `write_room` wrote.
        out: The parquet file to write.
        settings: Engine to use, and its memory and threads.
    """
    # Import time is not measured.
    import pyarrow.parquet  # noqa: F401
    import sqlglot.dialects.duckdb  # noqa: F401

    from cleanroom_pipelines.audiences.definitions import Remarketing
    from cleanroom_pipelines.audiences.evaluating import evaluate, evaluate_files
    from cleanroom_pipelines.audiences.relations import open_room_relations

    nothing: dict[str, Definition] = {}

    def answer() -> None:
        if question != MATCHING:
            evaluate_files(_definition(question, folder), nothing.__getitem__, out, settings)
            return
        with open_configured_engine(settings, paths=[folder, out.parent]) as engine:
            open_room_relations(engine, folder, folder)
            evaluate(engine, Remarketing(_TYPE), nothing.__getitem__, {}, out)

    return answer


def _polars(question: str, folder: Path, out: Path, *, is_streaming: bool) -> Callable[[], None]:
    import polars as pl

    def frame() -> Any:
        if question == MATCHING:
            seeds = pl.scan_parquet(folder / "seeds.parquet").filter(pl.col("audience_type") == _TYPE)
            matched = pl.scan_parquet(folder / "matching.parquet").join(seeds, on="digest", how="semi")
            users = pl.scan_parquet(folder / "users.parquet").filter("is_relevant")
            order = ["stable_hash", "user_id"]
            return users.join(matched, on="user_id", how="semi").select(order).sort(order).select("user_id")
        users, *others = (pl.scan_parquet(file) for file in _lists(folder))
        for operator, other in zip(_OPERATORS[question], others, strict=True):
            if operator == "UNION":
                users = pl.concat([users, other])
            else:
                users = users.join(other, on="user_id", how="semi" if operator == "INTERSECT" else "anti")
        return users.unique()

    def answer() -> None:
        if is_streaming:
            frame().sink_parquet(out, compression="zstd", compression_level=1, engine="streaming")
        else:
            frame().collect(engine="in-memory").write_parquet(out, compression="zstd", compression_level=1)

    return answer


def main(argument: str) -> str:
    """Run one query with one implementation, and return the timings as JSON."""
    answer = _answer(json.loads(argument))
    started, cpu_started = perf_counter(), process_time()
    answer()
    return json.dumps({"seconds": perf_counter() - started, "cpu_seconds": process_time() - cpu_started})


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]))
