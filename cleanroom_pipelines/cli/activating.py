"""The command `export`: write a ranking or list of users as files for a destination, without catalogue or Dagster.

Lives here: turning options into a delivery, and reading the users and their ids from files.
Add here when a delivery gets an option.
Keep out: which rows are delivered and how (delivery.writing).
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cleanroom_pipelines.cli.console import print_json, progress_bar
from cleanroom_pipelines.errors import ConflictError, InputError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_FILE = click.Path(path_type=Path)
_RANKED = "ranked.parquet"
# Column names that an ids file may use in addition to the names of the kinds.
_OTHER_NAMES = {"PHONE": "PHONE_NUMBER", "HASHED_PHONE": "HASHED_PHONE_NUMBER", "EMAIL_ADDRESS": "EMAIL"}


@click.command()
@click.option(
    "--ranking", type=_FILE, required=True, help="Folder created by `cleanroom generate`, or any file of user ids."
)
@click.option(
    "--size", required=True, help="Number of users, such as 5000, or a share of all scored users, such as 5%."
)
@click.option("--out", type=_FILE, required=True, help="Folder to create.")
@click.option(
    "--seed-mode",
    type=click.Choice(["excluded", "first", "in_place"]),
    help="Only for an audience artifact of an installation; for others, choose it in `generate`.",
)
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv", "parquet", "plain"]), help="Default: csv.")
@click.option("--destination", type=click.Choice(["plain", "google", "meta", "tiktok", "liveramp"]))
@click.option(
    "--ids",
    type=_FILE,
    help="Table with user_id and one or more of email, phone_number, hashed_email and hashed_phone_number.",
)
@click.option("--gzip", is_flag=True, help="Compress each file.")
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    help="Maximum number of rows per file.",
)
@click.option("--holdout", help="Share of users to hold out as a control group, such as 10%.")
@click.option(
    "--holdout-out", type=_FILE, help="Folder for the control group's list. Default: --out with -holdout."
)
@click.option(
    "--name",
    default="audience",
    show_default=True,
    help="Name of the audience, written to the manifest. The same name holds out the same users at each refresh.",
)
@click.option(
    "--delta-from", type=_FILE, help="Folder of an earlier export: also write the rows added and removed since."
)
@click.option("--memory", help="Memory limit of the engine, such as 8GB.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifests as JSON.")
def export(as_json: bool, **options: Any) -> None:
    """Export the top users of a ranking, without Dagster."""
    with progress_bar("export") as progress:
        written = export_audience(progress=progress, **options)
    if as_json:
        print_json(written)
        return
    manifest, holdout = written["manifest"], written["holdout"]
    click.echo(f"{manifest['delivered']:,} users in {len(manifest['files']):,} files.")
    if holdout:
        click.echo(f"Held out {holdout['delivered']:,} users; their list is in {written['holdoutFolder']}.")
    if changes := manifest.get("changes"):
        click.echo(f"{changes['added']:,} rows added and {changes['removed']:,} removed since the earlier export.")
    for warning in written["warnings"]:
        click.echo(f"Warning: {warning}")


def export_audience(
    *,
    ranking: Path,
    size: str,
    out: Path,
    seed_mode: str | None,
    format_: str | None,
    destination: str | None,
    ids: Path | None,
    gzip: bool,
    max_rows: int,
    holdout: str | None,
    holdout_out: Path | None,
    name: str,
    delta_from: Path | None,
    memory: str | None,
    progress: Any,
) -> dict[str, Any]:
    """Write the top users of a ranking into a new folder.

    Returns:
        The manifests of the delivery and of the control group, and warnings.

    Raises:
        UsageError: An option is invalid, or contradicts another.
        ConflictError: An output folder exists already.
        InputError: A file cannot be used.
    """
    from cleanroom_pipelines.audiences.sizes import AudienceSize
    from cleanroom_pipelines.cli.bare import engine_settings
    from cleanroom_pipelines.delivery.exports import ExportHooks, ExportOptions
    from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt
    from cleanroom_pipelines.delivery.writing import ControlGroup, deliver
    from cleanroom_pipelines.storage.buckets import folder_on_disk

    settings = engine_settings(memory, None)
    if settings.memory_bytes:
        # three engines run at the same time: for the ids, the ranking and the delivery
        settings = replace(settings, memory_bytes=settings.memory_bytes // 3)
    kept_out = Holdout.parse(holdout, holdout_salt(b"", name)) if holdout else None
    if holdout_out and not holdout:
        raise UsageError("--holdout-out is given without --holdout.", remedy="Give --holdout too.")
    holdout_folder = holdout_out or out.with_name(f"{out.name}-holdout")
    for folder in (out, *([holdout_folder] if holdout else [])):
        if folder.exists():
            raise ConflictError("The output folder exists already.", remedy="Give --out a new name.")
    if holdout and out.resolve() in (holdout_folder.resolve(), *holdout_folder.resolve().parents):
        raise UsageError(
            "The control group's folder is inside the delivery.", remedy="Give another --holdout-out."
        )
    with (
        _activation(destination, format_, ids, settings) as (format_of_list, activation, warnings),
        _users(ranking, AudienceSize.parse(size), seed_mode, settings) as audience,
        _removed_on_failure(holdout_folder if holdout else None),
    ):
        delivery = deliver(
            folder_on_disk(out.absolute()),
            audience.user_ids,
            ExportOptions(name, audience.requested, format_of_list, max_rows=max_rows, gzip=gzip),
            activation=activation,
            control_group=ControlGroup(kept_out, folder_on_disk(holdout_folder.absolute())) if kept_out else None,
            delta_from=delta_from,
            engine=settings,
            hooks=ExportHooks(on_users=lambda n: progress(n / max(1, audience.requested), "writing")),
        )
    return {
        "manifest": delivery.manifest.as_dict(),
        "holdout": delivery.holdout.as_dict() if delivery.holdout else None,
        "holdoutFolder": str(holdout_folder) if delivery.holdout else None,
        "warnings": [*audience.warnings, *warnings],
    }


@contextmanager
def _removed_on_failure(folder: Path | None) -> Iterator[None]:
    """Remove the control group's list, which is written first, if the delivery fails."""
    try:
        yield
    except BaseException:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise


class _Users:
    """The users of one size, best first, and the requested number."""

    def __init__(self, user_ids: "Iterator[pa.Array]", requested: int, available: int) -> None:
        self.user_ids = user_ids
        self.requested = requested
        self.warnings = ["SIZE_EXCEEDS_POPULATION"] if requested > available else []


@contextmanager
def _users(ranking: Path, size: Any, seed_mode: str | None, settings: Any) -> Iterator[_Users]:
    from cleanroom_pipelines.audiences.sizes import SeedMode
    from cleanroom_pipelines.engine import find_tables, open_engine, quote_identifier
    from cleanroom_pipelines.similarity.rankings import RANKING_FILE, select_audience

    if (ranking / RANKING_FILE).exists():
        audience = select_audience(ranking / RANKING_FILE, size, SeedMode(seed_mode or SeedMode.EXCLUDED))
        yield _Users(audience.user_ids(), audience.requested, audience.delivered)
        return
    if seed_mode:
        raise UsageError(
            "The seed mode of this ranking was set by `generate`.",
            remedy="Give --seed-mode to `generate` instead.",
        )
    source = ranking / _RANKED if (ranking / _RANKED).is_file() else ranking
    tables = find_tables(source, what="ranking")
    user_id = _column(tables.columns, "user_id", "ranking")
    rank = next((column for column in tables.columns if column.lower() == "rank"), None)
    with open_engine(settings, paths=tables.files) as engine:
        engine.scan("ranking", tables)
        place = f"TRY_CAST({quote_identifier(rank)} AS BIGINT)" if rank else "row_number() OVER ()"
        engine.execute(
            # one row per user
            "CREATE TEMP TABLE users AS SELECT user_id, min(place) AS place FROM "
            f"(SELECT CAST({quote_identifier(user_id)} AS VARCHAR) AS user_id, {place} AS place FROM ranking) "
            "WHERE user_id IS NOT NULL AND user_id <> '' GROUP BY user_id"
        )
        available = int(engine.fetch("SELECT count(*) FROM users").column(0)[0].as_py())
        requested = size.n_users(_population(ranking) or available)
        batches = engine.batches("SELECT user_id FROM users ORDER BY place, user_id LIMIT ?", [requested], 100_000)
        yield _Users((batch.column(0) for batch in batches), requested, available)


def _population(ranking: Path) -> int | None:
    """The number of scored users, including the seed, that percentages refer to; None if unknown."""
    import json

    try:
        return int(json.loads((ranking / "metrics.json").read_text())["n_users"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The ranking's metrics cannot be read ({type(error).__name__}).", remedy="Generate it again."
        ) from None


@contextmanager
def _activation(
    destination: str | None, format_: str | None, ids: Path | None, settings: Any
) -> Iterator[tuple[str, Any, list[str]]]:
    """The format of a list of users, the activation of a destination, and warnings about ids that are left out."""
    from cleanroom_pipelines.delivery.destinations import AdDestination, require_served, serves
    from cleanroom_pipelines.delivery.writing import Activation, hash_ids
    from cleanroom_pipelines.engine import find_tables, open_engine, quote_identifier
    from cleanroom_pipelines.terms import MatchingId

    if destination in (None, AdDestination.PLAIN):
        if ids:
            raise UsageError("A plain list does not use --ids.", remedy="Omit --ids, or give an ad --destination.")
        if destination and format_ not in (None, "plain"):
            raise UsageError("The format of a plain list is fixed.", remedy="Omit --format.")
        yield "plain" if destination else format_ or "csv", None, []
        return
    if format_:
        raise UsageError("The destination determines the format.", remedy="Omit --format.")
    where = AdDestination(destination)
    if ids is None:
        require_served(where, MatchingId.STRING)
        yield "plain", Activation(where, (MatchingId.STRING,)), []
        return
    tables = find_tables(ids, what="ids file")
    user_id = _column(tables.columns, "user_id", "ids file")
    columns = _kinds(tables.columns)
    served = {kind: column for kind, column in columns.items() if serves(where, kind)}
    if not served:
        require_served(where, next(iter(columns)))
    left_out = [
        f"{where.words} does not accept {kind.value}; these ids were left out."
        for kind in columns
        if kind not in served
    ]
    with open_engine(settings, paths=tables.files) as engine:
        engine.scan("ids", tables)
        texts = ", ".join(f"CAST({quote_identifier(column)} AS VARCHAR)" for column in [user_id, *served.values()])

        def hashes() -> "Iterator[pa.RecordBatch]":
            for batch in engine.batches(f"SELECT {texts} FROM ids", rows=100_000):
                for place, kind in enumerate(served, start=1):
                    yield hash_ids(where, kind, batch.column(0), batch.column(place))

        yield "plain", Activation(where, tuple(served), hashes()), left_out


def _kinds(columns: Sequence[str]) -> dict[Any, str]:
    from cleanroom_pipelines.terms import MatchingId

    kinds = {kind.value: kind for kind in MatchingId if kind is not MatchingId.STRING}
    found = dict[Any, str]()
    for column in columns:
        name = _OTHER_NAMES.get(column.upper(), column.upper())
        if name in kinds:
            found.setdefault(kinds[name], column)
    if not found:
        raise InputError(
            "The ids file has no column of e-mail addresses or phone numbers.",
            remedy="Name the column email, phone_number, hashed_email or hashed_phone_number.",
        )
    return found


def _column(columns: Sequence[str], name: str, what: str) -> str:
    found = next((column for column in columns if column.lower() == name), None)
    if found is None:
        raise InputError(f"The {what} has no column {name!r}.", remedy="Give the column of user ids this name.")
    return found
