"""`cleanroom algebra`: set algebra over files of ids.

Lives here: reading the definition file and printing the result.
Keep out: the meaning of definitions and their evaluation (audiences).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cleanroom_pipelines.cli.console import print_json, progress_bar
from cleanroom_pipelines.errors import InputError, UsageError

_FILE = click.Path(path_type=Path)
_MAX_DEFINITION_BYTES = 16 << 20


@click.command()
@click.option("--definition", "definition_file", type=_FILE, required=True, help="JSON file with the definition.")
@click.option("--out", type=_FILE, required=True, help="Parquet file to write: distinct user_id, unordered.")
@click.option("--memory", help="Memory limit of the engine, such as 8GB; default: 60 % of this machine's memory.")
@click.option("--threads", type=click.IntRange(min=1), help="Number of threads; default: one per core.")
@click.option(
    "--engine",
    envvar="CLEANROOM_ENGINE_URL",
    help="duckdb (default), or a Spark cluster that sees the same files: spark://host:port, local[4], sc://host:port.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def algebra(  # noqa: PLR0917 - click passes options by name
    definition_file: Path,
    out: Path,
    memory: str | None,
    threads: int | None,
    engine: str | None,
    as_json: bool,
) -> None:
    """Combine lists of ids in files.

    Union, intersection and difference are applied strictly from left to right.

    \b
    Definitions are written as for a data room, with files as sources:
      {"kind": "rule_based", "source": {"kind": "file", "path": "a.parquet"}, "combinators": [
        {"operator": "DIFF", "source": {"kind": "file", "path": "b.parquet", "column": "id"}}]}
    To reference other audiences as {"kind": "custom", "id": "x"}, put them into one object with the definition:
      {"definition": {...}, "audiences": {"x": {...}}}

    Relative paths start at the folder of the definition file.
    """  # noqa: D301 \b keeps click from rewrapping the lines
    from cleanroom_pipelines.audiences.evaluating import evaluate_files
    from cleanroom_pipelines.cli.bare import engine_settings

    settings = engine_settings(memory, threads, engine, out=out)
    definition, audiences = _read(definition_file)
    if out.is_dir():
        raise UsageError("The output is a folder.", remedy="Give --out the name of a file.")

    def resolve(id_: str) -> Any:
        if id_ not in audiences:
            raise UsageError(
                "A referenced audience is missing in the definition file.", remedy="Add it under `audiences`."
            )
        return audiences[id_]

    warnings: list[str] = []
    with progress_bar("algebra") as progress:
        progress(0.0, "combining")
        n_ids = evaluate_files(definition, resolve, out, settings, warn=warnings.append)
    if as_json:
        found = {"n_users": n_ids, "out": str(out), "n_bytes": out.stat().st_size}
        print_json(found | ({"warnings": warnings} if warnings else {}))
        return
    click.echo(f"Wrote {n_ids:,} ids.")
    for warning in warnings:
        click.echo(f"Warning: {warning}")


def _read(file: Path) -> tuple[Any, Mapping[str, Any]]:
    from cleanroom_pipelines.audiences.definitions import parse_definition

    value = _json_of(file)
    audiences: Any = {}
    if isinstance(value, dict) and "definition" in value:
        audiences = value.get("audiences") or {}
        if set(value) - {"definition", "audiences"} or not isinstance(audiences, dict):
            raise UsageError(
                "The definition file has an unknown key.",
                remedy="Give a definition, or an object with `definition` and `audiences`.",
            )
        value = value["definition"]
    read = [
        parse_definition(_absolute(each, file.parent), with_files=True) for each in (value, *audiences.values())
    ]
    return read[0], dict(zip(audiences, read[1:], strict=True))


def _json_of(file: Path) -> Any:
    try:
        if file.stat().st_size > _MAX_DEFINITION_BYTES:
            raise InputError("The definition file is too large.", remedy="Check --definition.")
        return _absolute(json.loads(file.read_text(encoding="utf-8-sig")), file.parent)
    except OSError as error:
        problem = f"The definition file cannot be read ({type(error).__name__})."
    except (ValueError, RecursionError):
        problem = "The definition file is not valid JSON."
    # Raised outside the handler: the text of a decoding error quotes the file.
    raise InputError(problem, remedy="Check --definition.")


def _absolute(value: Any, folder: Path) -> Any:
    """Make relative file paths in a definition absolute; malformed parts are left for the parser to reject."""
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _absolute(item, folder) for key, item in value.items()}
    if found.get("kind") == "file" and isinstance(found.get("path"), str) and found["path"]:
        found["path"] = str(folder.absolute() / found["path"])
    return found
