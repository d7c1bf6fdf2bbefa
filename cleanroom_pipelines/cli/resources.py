"""`cleanroom status`, `delete` and `retry`: all resources and their work, and commands on resources by name.

Lives here: printing, filters, watching, and confirming.
Keep out: reading the situation (runs.situation), what may be deleted or retried (catalogue), doing it (runs).
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cleanroom_pipelines.cli.console import JSON, confirm, open_installation, print_json, read_installation, table
from cleanroom_pipelines.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from cleanroom_pipelines.catalog import Resource
    from cleanroom_pipelines.runs.installation import Installation
    from cleanroom_pipelines.runs.situation import Situation

_WATCH_SECONDS = 2.0
_COLUMNS = ("name", "kind", "status", "partition", "message")


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--failed", is_flag=True, help="Only resources whose newest version failed.")
@click.option("--watch", is_flag=True, help="Print again every two seconds, until interrupted.")
@JSON
def status(words: tuple[str, ...], failed: bool, watch: bool, as_json: bool) -> None:
    """Show failed, running, waiting and due work, then all resources.

    The first line names the home. With WORDs, list only resources whose name, kind, status or partition contains
    one of them. In a pipe, each resource is one line with tabs between its columns.
    """
    installation = open_installation()
    while True:
        rows = [row for row in rows_of(installation) if _is_wanted(row, words, failed)]
        if watch and sys.stdout.isatty():
            click.clear()
        if as_json:
            print_json(rows)
        else:
            _print(installation, rows, is_filtered=bool(words or failed))
        if not watch:
            return
        sys.stdout.flush()
        time.sleep(_WATCH_SECONDS)


def rows_of(installation: "Installation") -> list[dict[str, Any]]:
    """Return one row for each resource, parents first."""
    from cleanroom_pipelines.catalog import Kind

    if not installation.exists:
        return []
    catalog = installation.catalog
    catalog.resources.check_file()
    stages = catalog.work.stages()
    rows: list[dict[str, Any]] = []
    for kind in Kind:
        for record, newest in catalog.resources.with_newest(kind):
            stage = stages.get((record.id, newest.number))
            rows.append(
                {
                    "kind": kind.words,
                    "name": record.name,
                    "id": record.id,
                    "status": record.status,
                    "status_code": record.status_code,
                    "message": record.status_message or newest.summary.get("sentence", ""),
                    "version": newest.number,
                    "version_status": newest.status,
                    "progress": newest.progress,
                    "stage": stage.words if stage else "",
                    "place": stage.place if stage else None,
                }
            )
    return rows


def _is_wanted(row: dict[str, Any], words: tuple[str, ...], failed: bool) -> bool:
    if failed and row["version_status"] != "CREATE_FAILED":
        return False
    text = " ".join((row["name"], row["kind"], row["id"], _status_of(row))).lower()
    return not words or any(word.lower() in text for word in words)


def _print(installation: "Installation", rows: list[dict[str, Any]], *, is_filtered: bool) -> None:
    from cleanroom_pipelines.runs.situation import situation_of

    if not is_filtered:
        click.echo(f"home: {installation.settings.home}")
    if not rows:
        start = "Start with `cleanroom demo`, or `cleanroom apply FILE.yaml`."
        click.echo("No such resource." if is_filtered else f"Nothing exists yet. {start}")
        return
    if not is_filtered:
        for line in _lines_of(situation_of(installation)):
            click.echo(line)
        click.echo()
    cells = [[row["name"], row["kind"], _status_of(row), row["id"], row["message"] or ""] for row in rows]
    if sys.stdout.isatty():
        table("", list(_COLUMNS), cells)
        return
    for row_cells in (list(_COLUMNS), *cells):
        click.echo("\t".join(row_cells))


def _lines_of(situation: "Situation") -> list[str]:
    """Return the state of the installation as lines of text, the most urgent first."""
    lines = [situation.headline]
    for problem in situation.problems:
        what = f"{problem.first.kind.words} {problem.first.name!r}"
        lines.append(f"failed: {what}: {problem.reason}{problem.consequences}")
        lines.append(f"    Solve the problem, then run: {problem.command}")
    lines += [
        f"running: {each.record.kind.words} {each.record.name!r}: {each.stage}" for each in situation.running
    ]
    lines += [
        f"waiting: {each.record.kind.words} {each.record.name!r}: {each.stage}" for each in situation.waiting
    ]
    for record, due, is_overdue in situation.refreshes:
        overdue = " (overdue)" if is_overdue else ""
        lines.append(f"next refresh: {record.name!r} {due:%Y-%m-%d %H:%M} UTC{overdue}")
    lines += [f"changed: {sentence}" for sentence in situation.drift]
    lines += [f"exported: {each.record.name!r}: {each.size} in {each.place}" for each in situation.exports]
    lines.append(f"inbox for seeds: {situation.inbox}/<configured audience model>/")
    for pair, (left, total) in situation.budgets.items():
        lines.append(f"privacy budget: {pair}: {left:g} of {total:g} units left")
    lines += [f"notices: {each.sentence}" for each in situation.notices]
    lines.append(f"free disk space: {situation.free_bytes / 1e9:,.1f} of {situation.total_bytes / 1e9:,.1f} GB")
    return lines


def _status_of(row: dict[str, Any]) -> str:
    from cleanroom_pipelines.catalog import Stage

    if row["stage"]:
        stage = Stage(row["stage"], row["progress"], row["place"])
        return f"{row['status']} (version {row['version']}: {stage})"
    if row["version_status"] != row["status"]:
        return f"{row['status']} (version {row['version']}: {row['version_status']})"
    return f"{row['status']} {row['status_code'] or ''}".rstrip()


@click.command()
@click.argument("name", metavar="NAME")
@click.option("--with-dependents", is_flag=True, help="Also delete everything built from it.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(name: str, with_dependents: bool, yes: bool) -> None:
    """Delete the resource with this name or partition key.

    This deletes its data, its artifacts and its records in Dagster. Deleting a data room also deletes its
    provisioned data and results. Files that exports and lists wrote to a destination are kept, and so is the audit
    log. The next `apply` recreates a resource that its file declares.
    """
    from cleanroom_pipelines.runs.dagster_home import dagster_instance
    from cleanroom_pipelines.runs.deleting import delete_now
    from cleanroom_pipelines.runs.resources import resource_named

    installation = read_installation()
    record = resource_named(installation.catalog, name)
    dependents = installation.catalog.deletion.dependents(record.kind, record.id)
    if dependents and not with_dependents:
        raise ConflictError(
            f"The {record.kind.words} {record.name!r} has dependents: {_counted(dependents)}.",
            remedy="Delete those first, or add --with-dependents to delete all of them.",
        )
    what = f"the {record.kind.words} {record.name!r}"
    everything = f" and everything built from it: {_counted(dependents)}" if dependents else ""
    question = f"Delete {what}{everything}? This cannot be undone."
    confirm(question, yes=yes, unchanged="Nothing was deleted")
    with dagster_instance(installation) as instance:
        delete_now(
            installation,
            instance,
            (*dependents, record),
            on_resource=lambda each: click.echo(f"Deleting the {each.kind.words} {each.name!r}.", err=True),
        )
    n_more = f" and {_counted(dependents)} built from it" if dependents else ""
    click.echo(f"Deleted the {record.kind.words} {record.name!r}{n_more}.")


def _counted(records: Sequence["Resource"]) -> str:
    counts = Counter(record.kind.words for record in records)
    return ", ".join(f"{n} {words}{'' if n == 1 else 's'}" for words, n in counts.items())


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--failed", is_flag=True, help="Retry every resource whose newest version failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def retry(names: tuple[str, ...], failed: bool, as_json: bool) -> None:
    """Retry failed resources, given by name or partition key.

    `run`, `serve` or a daemon then does the work.
    """
    from cleanroom_pipelines.runs.resources import resource_named, retry_failed

    if bool(names) == failed:
        raise UsageError("Give either names or --failed.", remedy="`cleanroom status` lists what failed.")
    catalog = read_installation().catalog
    if failed:
        queued, skipped = retry_failed(catalog)
    else:
        records = [resource_named(catalog, name) for name in names]
        queued, skipped = [catalog.work.retry(record.kind, record.id) for record in records], []
    if as_json:
        print_json(
            {
                "queued": [{"partition": version.resource_id, "version": version.number} for version in queued],
                "skipped": [{"partition": record.id, "reason": reason} for record, reason in skipped],
            }
        )
        return
    for record, reason in skipped:
        click.echo(f"Skipped the {record.kind.words} {record.name!r}: {reason}", err=True)
    click.echo(f"Queued {len(queued)} failed {'version' if len(queued) == 1 else 'versions'}.")
