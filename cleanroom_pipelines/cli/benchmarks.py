"""`cleanroom benchmark …`: measurements, compared with other libraries in the same run.

Lives here: the options of the benchmarks and their output.
Add here when a benchmark is added.
Keep out: the measurements (benchmarks).
"""

import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from cleanroom_pipelines.cli.console import print_json, progress_bar
from cleanroom_pipelines.errors import ConfigurationError, UsageError

_FILE = click.Path(path_type=Path)
_MOST_PRIVATE_TASKS = 10
_DEFAULT_KINDS = ("item", "attribute", "campaign", "future", "null")


@click.group()
def benchmark() -> None:
    """Measure quality, speed and privacy.

    Baselines and other libraries are measured on the same data, in the same run.
    """


@benchmark.command()
@click.option("--interactions", help="File, folder or glob; default: the demo's grocery data.")
@click.option(
    "--schema",
    help="Columns and their roles: column=ROLE,…, such as user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP.",
)
@click.option("--users", type=_FILE, help="Table with one row per user.")
@click.option("--users-schema", help="Roles of the users table's columns.")
@click.option(
    "--tasks",
    default="",
    help="Kinds of tasks: item,attribute,campaign,future,null (default: all that the data supports), and item "
    "tasks with harder seeds: noisy,pair,seed-30,seed-100.",
)
@click.option("--n-tasks", default=40, show_default=True, help="Maximum number of tasks of each kind.")
@click.option("--seed", default=0, show_default=True, help="Random seed for the choice of tasks and seed users.")
@click.option(
    "--private",
    is_flag=True,
    help="Measure private lookalikes (with noise) by seed size. Default: the demo's data, and synthetic groups.",
)
@click.option(
    "--against", type=_FILE, help="Checkout of another version of this project, to run on the same tasks."
)
@click.option("--json", "json_file", type=_FILE, help="Write all results as JSON to this file; - prints them.")
def quality(  # noqa: PLR0917 - click passes options by name
    interactions: str | None,
    schema: str | None,
    users: Path | None,
    users_schema: str | None,
    tasks: str,
    n_tasks: int,
    seed: int,
    private: bool,
    against: Path | None,
    json_file: Path | None,
) -> None:
    """Measure recall of held-out users, compared with common baselines on the same tasks."""
    _require("implicit")
    from cleanroom_pipelines.benchmarks.other_version import OtherVersion
    from cleanroom_pipelines.benchmarks.quality import Data, complete_journey, run_quality, table
    from cleanroom_pipelines.similarity.specs import InteractionsSchema, UsersSchema

    if bool(interactions) != bool(schema):
        raise UsageError("Only one of --interactions and --schema was given.", remedy="Give both, or neither.")
    if bool(users) != bool(users_schema):
        raise UsageError("Only one of --users and --users-schema was given.", remedy="Give both, or neither.")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, progress_bar("quality") as progress:
        if interactions and schema:
            data = Data(
                interactions=interactions,
                schema=InteractionsSchema.parse(schema),
                users=users,
                users_schema=UsersSchema.parse(users_schema) if users_schema else None,
                name=Path(interactions).parent.name or "data",
            )
            kinds = ["item", *(["attribute"] if users else []), "null"]
        else:
            data, kinds = complete_journey(Path(scratch)), list(_DEFAULT_KINDS)
        if tasks:
            kinds = [kind.strip() for kind in tasks.split(",")]
        if private:
            from cleanroom_pipelines.benchmarks.private import private_table, run_private

            sets = [data] if interactions else [data, None]
            results = [
                run_private(some, n_tasks=min(n_tasks, _MOST_PRIVATE_TASKS), random_seed=seed, progress=progress)
                for some in sets
            ]
            _report({"private": results}, json_file, "\n\n".join(private_table(some) for some in results))
            return
        result = run_quality(
            data,
            kinds=kinds,
            n_tasks=n_tasks,
            random_seed=seed,
            progress=progress,
            against=OtherVersion(against.resolve()) if against is not None else None,
        )
    _report(result, json_file, table(result))


def _report(result: Mapping[str, Any], json_file: Path | None, text: str) -> None:
    if json_file == Path("-"):
        print_json(result)
        return
    if json_file:
        json_file.write_text(json.dumps(result, indent=1, default=str))
    click.echo(text)


def _require(module: str) -> None:
    if find_spec(module) is None:
        raise ConfigurationError(
            f"The library `{module}` is not installed, but the benchmark compares with it.",
            remedy="Install it: pip install -r requirements-dev.lock, or 'cleanroom-pipelines[benchmark]'.",
        )


@benchmark.command()
@click.option(
    "--worlds",
    "n_worlds",
    default=200,
    show_default=True,
    help="Simulated installations per attack; the victim's data is in half of them.",
)
@click.option("--only", help="Only attacks whose names contain this text.")
@click.option("--json", "json_file", type=_FILE, help="Write all results as JSON to this file; - prints them.")
def attacks(n_worlds: int, only: str | None, json_file: Path | None) -> None:
    """Run privacy attacks on data rooms and jobs as a participant, with the privacy policy on and off."""
    from cleanroom_pipelines.benchmarks.attacks.guessing import report, run_attacks

    with progress_bar("attacks") as progress:
        results = run_attacks(n_worlds, only, progress)
    _report({"attacks": [each.as_dict() for each in results]}, json_file, report(results))


@benchmark.command()
@click.option(
    "--sizes",
    default="50000x1000000,200000x4000000",
    show_default=True,
    help="Sizes as USERSxINTERACTIONS, separated by commas. The cost per additional million "
    "interactions is computed between consecutive sizes.",
)
@click.option("--seed-sizes", default="10000", show_default=True, help="Seed sizes to measure at each data size.")
@click.option("--items", default=20_000, show_default=True, help="Number of items in the synthetic data.")
@click.option("--memory", default="8GB", show_default=True, help="Memory limit of the engine.")
@click.option(
    "--threads",
    default=2,
    show_default=True,
    help="Number of threads of each engine and of each library it is compared with.",
)
@click.option(
    "--engine",
    "engines",
    default="duckdb",
    show_default=True,
    help="Engines to measure: duckdb,spark or one of them.",
)
@click.option(
    "--steps", default="train,generate,export,match,combine", show_default=True, help="Steps to measure."
)
@click.option("--spark-url", help="Address of Spark; default: local[THREADS] on this machine.")
@click.option(
    "--peers",
    default="als,pandas",
    show_default=True,
    help="Libraries to compare with: als,pandas; empty for none.",
)
@click.option("--scratch", type=_FILE, help="Folder for data, models and spill files.")
@click.option("--json", "json_file", type=_FILE, help="Write all results as JSON to this file; - prints them.")
def scale(  # noqa: PLR0917 - click passes options by name
    sizes: str,
    seed_sizes: str,
    items: int,
    memory: str,
    threads: int,
    engines: str,
    steps: str,
    spark_url: str | None,
    peers: str,
    scratch: Path | None,
    json_file: Path | None,
) -> None:
    """Measure time, peak memory, spill and shuffle of the heavy steps on synthetic data.

    The steps are training, generating, exporting, matching and combining lists. One or both engines, and the
    libraries implicit and pandas, run on the same data in the same run.
    """
    _require("psutil")
    from cleanroom_pipelines.benchmarks.scale import ENGINES, PEERS, ScaleSettings, run_scale, table
    from cleanroom_pipelines.runs.installation import parse_bytes

    chosen = tuple(peer.strip() for peer in peers.split(",") if peer.strip())
    if set(chosen) - set(PEERS):
        raise UsageError("--peers has an unknown peer.", remedy=f"Choose from {', '.join(PEERS)}.")
    on = tuple(engine.strip() for engine in engines.split(",") if engine.strip())
    if not on or set(on) - set(ENGINES):
        raise UsageError("--engine has an unknown engine.", remedy=f"Choose from {', '.join(ENGINES)}.")
    if "als" in chosen:
        _require("implicit")
    if "spark" in on:
        _require("pyspark")
    try:
        pairs = [tuple(int(number) for number in size.lower().split("x")) for size in sizes.split(",")]
        settings = ScaleSettings(
            sizes=[(n_users, n_interactions) for n_users, n_interactions in pairs],
            seed_sizes=[int(size) for size in seed_sizes.split(",")],
            n_items=items,
            memory_bytes=parse_bytes(memory),
            threads=threads,
            engines=on,
            steps=tuple(step.strip() for step in steps.split(",") if step.strip()),
            spark_url=spark_url,
            peers=chosen,
            scratch=scratch,
        )
    except UsageError:
        raise
    except (ValueError, KeyError):
        raise UsageError(
            "--sizes, --seed-sizes or --memory is invalid.",
            remedy="Write sizes as 50000x1000000,200000x4000000, seed sizes as 10000, memory as 8GB.",
        ) from None
    with progress_bar("scale") as progress:
        result = run_scale(settings, progress)
    _report(result, json_file, table(result))


@benchmark.command()
@click.argument("file", type=_FILE)
@click.option("--cores", default=16, show_default=True, help="Cores of the machine that runs DuckDB.")
@click.option("--cluster-cores", default=128, show_default=True, help="Cores of the Spark cluster.")
def capacity(file: Path, cores: int, cluster_cores: int) -> None:
    """Extrapolate costs linearly to larger populations, from two sizes measured by `scale … --json FILE`."""
    from cleanroom_pipelines.benchmarks.capacity import table

    try:
        result = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The benchmark results cannot be read ({type(error).__name__}).",
            remedy="Give a file written by `cleanroom benchmark scale --json FILE`.",
        ) from None
    click.echo(table(result, cores=max(1, cores), cluster_cores=max(1, cluster_cores)))


@benchmark.command()
@click.option("--clients", default=32, show_default=True, help="Number of clients, each with its own connection.")
@click.option("--seconds", default=60.0, show_default=True, help="Duration of the load.")
@click.option("--accounts", default=4, show_default=True, help="Number of accounts that the clients share.")
@click.option("--pace", default=4.0, show_default=True, help="Calls per client and second, with jitter.")
@click.option("--seed", default=0, show_default=True, help="Random seed for the order and timing of calls.")
@click.option("--json", "json_file", type=_FILE, help="Write all results as JSON to this file; - prints them.")
def api(  # noqa: PLR0917 - click passes options by name
    clients: int, seconds: float, accounts: int, pace: float, seed: int, json_file: Path | None
) -> None:
    """Measure the latency of mixed API calls to a real server, compared with a call that does nothing.

    Checks every response. Exits with 1 if a response was wrong, or a resource was lost or duplicated.
    """
    _require("psutil")
    from cleanroom_pipelines.benchmarks.load import LoadPlan, run_load, table

    if clients < 1 or seconds <= 0 or not 2 <= accounts <= 1000 or pace <= 0:
        raise UsageError(
            "The load is out of range.",
            remedy="Give at least 1 client, 2 to 1000 accounts, and a --seconds and a --pace above zero.",
        )
    plan = LoadPlan(
        n_clients=clients, seconds=seconds, n_accounts=accounts, pace_per_second=pace, random_seed=seed
    )
    with progress_bar("api") as progress:
        result = run_load(plan, progress)
    _report(result, json_file, table(result))
    if result["problems"]:
        raise SystemExit(1)


@benchmark.command()
@click.option("--sessions", default=32, show_default=True, help="Number of sessions.")
@click.option("--seconds", default=60.0, show_default=True, help="Duration of the load.")
@click.option("--pace", default=1.0, show_default=True, help="Pages per session and second, with jitter.")
@click.option("--users", default=20_000, show_default=True, help="Number of users of the room's publisher.")
@click.option("--entries", default=20_000, show_default=True, help="Number of entries of the room's audit log.")
@click.option("--seed", default=0, show_default=True, help="Random seed of the data, the pages and their timing.")
@click.option("--json", "json_file", type=_FILE, help="Write all results as JSON to this file; - prints them.")
def console(  # noqa: PLR0917 - click passes options by name
    sessions: int, seconds: float, pace: float, users: int, entries: int, seed: int, json_file: Path | None
) -> None:
    """Measure the latency of a busy room's pages in the console, compared with a call that does nothing.

    Also measures the CPU time of each page. Exits with 1 if a page failed to load.
    """
    _require("psutil")
    from cleanroom_pipelines.benchmarks.console import ConsolePlan, run_console, table

    if sessions < 3 or seconds <= 0 or pace <= 0 or users < 5_000 or entries < 0:
        raise UsageError(
            "The load is out of range.",
            remedy="Give at least 3 sessions and 5000 users, and a --seconds and a --pace above zero.",
        )
    plan = ConsolePlan(
        n_sessions=sessions,
        seconds=seconds,
        pace_per_second=pace,
        n_users=users,
        n_entries=entries,
        random_seed=seed,
    )
    with progress_bar("console") as progress:
        result = run_console(plan, progress)
    _report(result, json_file, table(result))
    if result["problems"]:
        raise SystemExit(1)


@benchmark.command()
@click.option(
    "--rows",
    default=10_000_000,
    show_default=True,
    help="Number of ids in the base audience, and in the longest list.",
)
@click.option("--repetitions", default=3, show_default=True, help="Number of measurements of each method.")
@click.option(
    "--threads",
    default=2,
    show_default=True,
    help="Number of threads of each engine and of each library it is compared with.",
)
@click.option(
    "--questions",
    default="",
    help="Kinds of query to measure: intersections,differences,unions,mixed,matching; default: all.",
)
@click.option("--scratch", type=_FILE, help="Folder for lists, results and spill files.")
@click.option("--json", "json_file", type=_FILE, help="Write all results as JSON to this file; - prints them.")
def algebra(  # noqa: PLR0917 - click passes options by name
    rows: int, repetitions: int, threads: int, questions: str, scratch: Path | None, json_file: Path | None
) -> None:
    """Measure time and peak memory of combining five lists of ids, compared with hand-written SQL and polars.

    Also measures matching the base audience with a hashed seed of a tenth of its size. Exits with 1 if results
    differ.
    """
    _require("psutil")
    _require("polars")
    from cleanroom_pipelines.benchmarks.algebra import QUESTIONS, AlgebraSettings, run_algebra, table

    if rows < 100 or repetitions < 1 or threads < 1:
        raise UsageError(
            "--rows, --repetitions or --threads is too small.",
            remedy="Give at least 100 rows, one repetition and one thread.",
        )
    chosen = tuple(question.strip() for question in questions.split(",") if question.strip()) or QUESTIONS
    if set(chosen) - set(QUESTIONS):
        raise UsageError(
            "--questions has an unknown kind of query.", remedy=f"Choose from {', '.join(QUESTIONS)}."
        )
    with progress_bar("algebra") as progress:
        result = run_algebra(AlgebraSettings(rows, repetitions, threads, scratch, chosen), progress)
    _report(result, json_file, table(result))
    if not all(question["is_same"] for question in result["questions"].values()):
        raise SystemExit(1)
