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

    from cleanroom_pipelines.engine import Engine, TableFiles
    from cleanroom_pipelines.terms import MatchingId

_FILE = click.Path(path_type=Path)
_RANKED = "ranked.parquet"
# Users that are kept in memory, to say why none of them is in the ids file.
_MAX_USERS_COMPARED = 1_000_000


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
    help="Position of the seed's users in the list, if --ranking is an audience artifact of an installation. "
    "For a ranking by `generate`, use the --seed-mode of `generate` instead.",
)
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv", "parquet", "plain"]), help="Default: csv.")
@click.option("--destination", type=click.Choice(["plain", "google", "meta", "tiktok", "liveramp"]))
@click.option(
    "--ids",
    type=_FILE,
    help="Table with the column user_id and at least one of email, phone_number, hashed_email and "
    "hashed_phone_number, such as Google's template. Columns may repeat (email, email_2), and a user may have "
    "several rows.",
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
    "--holdout-out", type=_FILE, help="Folder for the control group's list. Default: --out plus '-holdout'."
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
    from cleanroom_pipelines.similarity.specs import WARNINGS

    manifest, holdout = written["manifest"], written["holdout"]
    n_files = len(manifest["files"])
    click.echo(f"Exported {manifest['delivered']:,} users in {n_files:,} {'file' if n_files == 1 else 'files'}.")
    if holdout:
        click.echo(f"Held out {holdout['delivered']:,} users; their list is in {written['holdoutFolder']}.")
    if changes := manifest.get("changes"):
        click.echo(f"{changes['added']:,} rows added and {changes['removed']:,} removed since the earlier export.")
    for warning in written["warnings"]:
        click.echo(f"Warning: {WARNINGS.get(warning, warning)}")


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
        raise UsageError("--holdout-out needs --holdout.", remedy="Give --holdout too.")
    holdout_folder = holdout_out or out.with_name(f"{out.name}-holdout")
    for folder in (out, *([holdout_folder] if holdout else [])):
        if folder.exists():
            raise ConflictError("The output folder exists already.", remedy="Give --out a new name.")
    if holdout and out.resolve() in (holdout_folder.resolve(), *holdout_folder.resolve().parents):
        raise UsageError("--holdout-out is the folder --out or inside it.", remedy="Give another --holdout-out.")
    with (
        _activation(destination, format_, ids, settings) as (format_of_list, activation, warnings, ids_of_users),
        _users(ranking, AudienceSize.parse(size), seed_mode, settings) as audience,
        _removed_on_failure(holdout_folder if holdout else None),
    ):
        delivery = deliver(
            folder_on_disk(out.absolute()),
            audience.user_ids if ids_of_users is None else ids_of_users.noting(audience.user_ids),
            ExportOptions(
                name,
                audience.requested,
                format_of_list,
                max_rows=max_rows,
                gzip=gzip,
                delta_from=delta_from,
            ),
            activation=activation,
            control_group=ControlGroup(kept_out, folder_on_disk(holdout_folder.absolute())) if kept_out else None,
            engine=settings,
            hooks=ExportHooks(on_users=lambda n: progress(n / max(1, audience.requested), "writing")),
        )
        if ids_of_users is not None and not delivery.manifest.delivered:
            warnings.extend(ids_of_users.why_none())
    return {
        "manifest": delivery.manifest.as_dict(),
        "holdout": delivery.holdout.as_dict() if delivery.holdout else None,
        "holdoutFolder": str(holdout_folder) if delivery.holdout else None,
        "warnings": [*audience.warnings, *warnings],
    }


@contextmanager
def _removed_on_failure(folder: Path | None) -> Iterator[None]:
    """Remove the control group's list, which is written before the delivery, if the delivery fails."""
    try:
        yield
    except BaseException:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise


class _UsersToDeliver:
    """The users to deliver (best first), the number requested, and warnings."""

    def __init__(self, user_ids: "Iterator[pa.Array]", requested: int, available: int) -> None:
        self.user_ids = user_ids
        self.requested = requested
        self.warnings = ["SIZE_EXCEEDS_POPULATION"] if requested > available else []


@contextmanager
def _users(ranking: Path, size: Any, seed_mode: str | None, settings: Any) -> Iterator[_UsersToDeliver]:
    from cleanroom_pipelines.audiences.sizes import SeedMode
    from cleanroom_pipelines.similarity.rankings import RANKING_FILE, select_audience
    from cleanroom_pipelines.uploads.checks import IDS, find_upload
    from cleanroom_pipelines.uploads.reading import declare, opened, reject_ambiguous_ids
    from cleanroom_pipelines.uploads.roles import Role

    if (ranking / RANKING_FILE).exists():
        audience = select_audience(ranking / RANKING_FILE, size, SeedMode(seed_mode or SeedMode.EXCLUDED))
        yield _UsersToDeliver(audience.user_ids(), audience.requested, audience.delivered)
        return
    if seed_mode:
        raise UsageError(
            "The seed mode of this ranking was set by `generate`.",
            remedy="Give --seed-mode to `generate` instead.",
        )
    source = ranking / _RANKED if (ranking / _RANKED).is_file() else ranking
    upload = replace(IDS, what="ranking")
    tables = find_upload(source, upload)
    rank = next((column for column in tables.columns if column.lower() == "rank"), None)
    columns = [(_user_id_column(tables, "ranking"), Role.USER_ID)]
    if rank:
        columns.append((rank, Role.NUMERICAL_FEATURE))
    with opened(declare(tables, columns, upload), settings, name="ranking") as (engine, checked):
        reject_ambiguous_ids(engine, checked)
        engine.execute(
            # one row per user
            "CREATE TEMP TABLE users AS SELECT user_id, min(place) AS place FROM (SELECT CAST(v0 AS VARCHAR) AS "
            f"user_id, {'v1' if rank else 'row_number() OVER ()'} AS place, e0 FROM ranking) WHERE e0 IS NULL "
            "GROUP BY user_id"
        )
        available = int(engine.fetch("SELECT count(*) FROM users").column(0)[0].as_py())
        requested = size.n_users(_population(ranking) or available)
        batches = engine.batches("SELECT user_id FROM users ORDER BY place, user_id LIMIT ?", [requested], 100_000)
        yield _UsersToDeliver((batch.column(0) for batch in batches), requested, available)


def _population(ranking: Path) -> int | None:
    """Return the number of users (scored and seed) of which a size is a percentage; None without metrics."""
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
) -> "Iterator[tuple[str, Any, list[str], _IdsOfUsers | None]]":
    """Yield the file format, the destination and the ids hashed for it, warnings, and the ids file's content."""
    from cleanroom_pipelines.delivery.destinations import AdDestination, require_served, serves
    from cleanroom_pipelines.delivery.writing import Activation
    from cleanroom_pipelines.terms import MatchingId
    from cleanroom_pipelines.uploads.checks import IDS, find_upload
    from cleanroom_pipelines.uploads.reading import declare, opened, reject_ambiguous_ids
    from cleanroom_pipelines.uploads.roles import Role

    if destination in (None, AdDestination.PLAIN):
        if ids:
            raise UsageError("A plain list does not use --ids.", remedy="Omit --ids, or give an ad --destination.")
        if destination and format_ not in (None, "plain"):
            raise UsageError("--destination plain has a fixed file format.", remedy="Omit --format.")
        yield "plain" if destination else format_ or "csv", None, [], None
        return
    if format_:
        raise UsageError("The ad --destination determines the file format.", remedy="Omit --format.")
    where = AdDestination(destination)
    if ids is None:
        require_served(where, MatchingId.STRING)
        yield "plain", Activation(where, (MatchingId.STRING,)), [], None
        return
    upload = replace(IDS, what="ids file")
    tables = find_upload(ids, upload)
    if tables.format == "csv":
        tables = tables.numbered()
    user_id = _user_id_column(tables, "ids file")
    columns = _kinds(tables.columns)
    served = {kind: names for kind, names in columns.items() if serves(where, kind)}
    if not served:
        require_served(where, next(iter(columns)))
    left_out = [
        f"{where.words} does not accept {kind.value}; these ids were left out."
        for kind in columns
        if kind not in served
    ]
    kinds = [kind for kind, names in served.items() for _ in names]
    # Ids of people are read like ids of users; `hash_ids` judges e-mail addresses and phone numbers.
    declared = [(name, Role.USER_ID) for name in (user_id, *(name for names in served.values() for name in names))]
    with opened(declare(tables, declared, upload), settings, name="ids") as (engine, checked):
        reject_ambiguous_ids(engine, checked)
        given = _IdsOfUsers(engine, kinds)
        yield "plain", Activation(where, tuple(served), given.hashes(where)), left_out, given


class _IdsOfUsers:
    """The content of the file given by `--ids`: any number of ids of each kind for every user.

    Args:
        engine: A session with the checked file as the view `ids`: users first, then ids.
        kinds: The kind of each column of ids.
    """

    def __init__(self, engine: "Engine", kinds: "Sequence[MatchingId]") -> None:
        self._engine = engine
        self._kinds = kinds
        self._wanted: list[pa.Array] = []

    def hashes(self, where: Any) -> "Iterator[pa.RecordBatch]":
        """Hash the valid ids for a destination."""
        from cleanroom_pipelines.delivery.writing import hash_ids

        ids = ", ".join(f"{_usable(place)} AS id{place}" for place in range(1 + len(self._kinds)))
        for batch in self._engine.batches(f"SELECT {ids} FROM ids", rows=100_000):
            for place, kind in enumerate(self._kinds, start=1):
                yield hash_ids(where, kind, batch.column(0), batch.column(place))

    def noting(self, users: "Iterator[pa.Array]") -> "Iterator[pa.Array]":
        """Yield the batches unchanged, and remember the first million users for `why_none`."""
        n_users = 0
        for batch in users:
            if n_users < _MAX_USERS_COMPARED:
                self._wanted.append(batch)
                n_users += len(batch)
            yield batch

    def why_none(self) -> list[str]:
        """Explain why no user of the list has a valid id; empty if the list has no users."""
        import pyarrow as pa

        from cleanroom_pipelines.uploads.likely_causes import no_match

        if not self._wanted:
            return []
        users = pa.concat_arrays([batch.cast(pa.string()) for batch in self._wanted])
        self._engine.register("wanted", pa.table({"id": users}))
        mine, theirs = "SELECT id FROM wanted", f"SELECT {_usable(0)} AS id FROM ids"
        if self._engine.fetch(f"SELECT 1 FROM ({mine}) SEMI JOIN ({theirs}) USING (id) LIMIT 1").num_rows:
            return ["The users of the list have no valid ids in the ids file."]
        return [no_match(self._engine, mine, theirs, what="users of the list", where="are in the ids file")]


def _kinds(columns: Sequence[str]) -> "dict[MatchingId, list[str]]":
    from cleanroom_pipelines.identity.names import kind_of_name

    found = dict[Any, list[str]]()
    for column in columns:
        if (kind := kind_of_name(column)) is not None:
            found.setdefault(kind, []).append(column)
    if not found:
        raise InputError(
            "The ids file has no column of e-mail addresses or phone numbers.",
            remedy="Name the column email, phone_number, hashed_email or hashed_phone_number.",
        )
    return found


def _user_id_column(tables: "TableFiles", what: str) -> str:
    found = next((column for column in tables.columns if column.lower() == "user_id"), None)
    if found is None and "user_id" in {name.lower() for name in tables.repeated}:
        raise InputError(
            f"The {what} has the column 'user_id' more than once.", remedy="Keep this name for one column only."
        )
    if found is None:
        raise InputError(f"The {what} has no column 'user_id'.", remedy="Give the column of user ids this name.")
    return found


def _usable(place: int) -> str:
    return f"CASE WHEN e{place} IS NULL THEN CAST(v{place} AS VARCHAR) END"
