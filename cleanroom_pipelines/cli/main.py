"""The `cleanroom` command and its groups.

Lives here: the command line; each command is a few lines that call the layers below.
Add here when a command is added.
Keep out: longer implementations (demo.py, developing.py).
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cleanroom_pipelines.cli.activating import export
from cleanroom_pipelines.cli.algebra import algebra
from cleanroom_pipelines.cli.auditing import audit
from cleanroom_pipelines.cli.benchmarks import benchmark
from cleanroom_pipelines.cli.console import (
    DEFECT,
    USAGE,
    ending_on_signals,
    exit_with,
    open_installation,
    planning_installation,
    print_json,
    progress_bar,
    read_installation,
    readers_may_leave,
)
from cleanroom_pipelines.cli.ledgers import ledger
from cleanroom_pipelines.cli.notices import notice
from cleanroom_pipelines.cli.parties import account, bucket, collaboration, template
from cleanroom_pipelines.cli.recovering import recover
from cleanroom_pipelines.cli.resources import delete, retry, status
from cleanroom_pipelines.cli.users import token, user
from cleanroom_pipelines.errors import CleanroomError, UsageError
from cleanroom_pipelines.ways_in import acting_for

if TYPE_CHECKING:
    from cleanroom_pipelines.catalog import Catalog
    from cleanroom_pipelines.declarations import Declaration, DeclaredChange
    from cleanroom_pipelines.runs.installation import Installation

_FILE = click.Path(path_type=Path)

_ENGINE = click.option(
    "--engine",
    envvar="CLEANROOM_ENGINE_URL",
    help="duckdb (default), or a Spark cluster that sees the same files: spark://host:port, local[4], sc://host:port.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cleanroom-pipelines")
def cleanroom() -> None:
    """A self-hosted audience clean room. Every command reads CLEANROOM_HOME (default ./data)."""


def main() -> None:
    """Run the command line of this process.

    Exit codes: 0 on success; 2, with one sentence on stderr, for bad usage, bad input or a system error such as a
    full disk; 130 and 143 after SIGINT and SIGTERM; 1 for a bug in this package.
    """
    with readers_may_leave(), ending_on_signals() as ending:
        try:
            with acting_for("cli"):
                code = _run(sys.argv[1:])
            if sys.stdout is not None:  # None if it was closed at start
                sys.stdout.flush()
        except CleanroomError as error:
            exit_with(error)
        except KeyboardInterrupt:
            sys.exit(ending.code)
        except Exception as error:
            if ending.is_asked:  # some libraries turn a signal into their own error
                sys.exit(ending.code)
            from cleanroom_pipelines.runs.work import UnexpectedError, without_data_of

            # the error's text may quote a cell, and a traceback would print it
            safe = without_data_of(error)
            exit_with(safe, DEFECT if isinstance(safe, UnexpectedError) else USAGE)
    if code:
        sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run the command like click's main, but leave the exit codes of signals and broken pipes to the caller."""
    if "_CLEANROOM_COMPLETE" in os.environ:
        cleanroom.main(arguments)  # shell completion; exits the process
    try:
        with cleanroom.make_context("cleanroom", arguments) as context:
            cleanroom.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return USAGE
    except click.Abort:  # end of input at a prompt
        click.echo("cleanroom: Not confirmed; nothing was changed.", err=True)
        return USAGE
    return 0


for group in (account, audit, benchmark, bucket, collaboration, notice, template, token, user):
    cleanroom.add_command(group)
for command in (algebra, delete, export, ledger, recover, retry, status):
    cleanroom.add_command(command)


@cleanroom.command()
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def demo(as_json: bool) -> None:
    """Run an end-to-end demo on real grocery data.

    Prints the validation report, the quality of the audience and the exports.
    """
    from cleanroom_pipelines.cli.demo import run_demo

    run_demo(as_json=as_json)


@cleanroom.command()
@click.argument("folder", type=_FILE)
def example(folder: Path) -> None:
    """Copy the example files to a new FOLDER.

    They are a declaration, a script for data rooms, an upstream Dagster asset, and settings for several hosts.
    """
    from cleanroom_pipelines.cli.demo import copy_example

    copy_example(folder)
    click.echo(f"Copied. Start with `cleanroom apply {folder / 'cleanroom.yaml'}`, or with `data_room.py` there.")


@cleanroom.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. The UI has no login: keep it on this machine.",
)
def dev(port: int, host: str) -> None:
    """Start the Dagster UI and daemon.

    All sensors and schedules are on.
    """
    from cleanroom_pipelines.cli.developing import start_dagster

    start_dagster(host, port)


@cleanroom.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8723, show_default=True, help="Port to listen on; 0 chooses a free one.")
@click.option(
    "--no-worker", is_flag=True, help="Start no workers; this installation's Dagster daemon does the work."
)
@click.option("--tls-certificate", type=_FILE, help="PEM file of a certificate chain: serve HTTPS.")
@click.option("--tls-key", type=_FILE, help="PEM file of the certificate's private key.")
def serve(host: str, port: int, no_worker: bool, tls_certificate: Path | None, tls_key: Path | None) -> None:
    """Start the HTTP server, and workers that do the pending work.

    Prints the URL when ready.
    """
    from cleanroom_pipelines.console.app import Console
    from cleanroom_pipelines.server.starting import open_tls
    from cleanroom_pipelines.server.starting import serve as start

    if (tls_certificate is None) != (tls_key is None):
        raise click.UsageError("Give both --tls-certificate and --tls-key, or neither.")
    tls = open_tls(tls_certificate, tls_key) if tls_certificate and tls_key else None
    start(open_installation(), host, port, worker=not no_worker, on_ready=click.echo, tls=tls, make_site=Console)


@cleanroom.command()
@click.argument("file", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Show what would change, and check the tables.")
@click.option("--run", is_flag=True, help="Then run all pending work in this process, without a daemon.")
@click.option("--json", "as_json", is_flag=True, help="Print the changes as JSON.")
def apply(file: Path, dry_run: bool, run: bool, as_json: bool) -> None:
    """Create and update the resources declared in FILE.

    These are parties, training datasets, models, refreshes, configured models, jobs and exports. Tables
    and seeds that are new or changed are checked first. With --run, the exit code is 2 if any of the work failed.
    """
    from cleanroom_pipelines.declarations import read_declaration

    declaration = read_declaration(file)
    with planning_installation() if dry_run else nullcontext(open_installation()) as installation:
        changes = _apply(installation, declaration, dry_run=dry_run)
    if run and not dry_run:
        from cleanroom_pipelines.cli.watching import run_pending_watched

        run_pending_watched(installation)
    if as_json:
        print_json([vars(change) for change in changes])
    else:
        for change in changes:
            click.echo(
                f"{_action_of(change.action, dry_run)} {change.kind.words} {change.name!r} {change.id}".rstrip()
            )
    for change in changes:
        if change.warning:
            click.echo(f"Warning: the {change.kind.words} {change.name!r} will fail: {change.warning}", err=True)
    if dry_run:
        return
    if not run and (n_open := sum(installation.catalog.resources.unfinished().values())):
        what = "1 version waits" if n_open == 1 else f"{n_open} versions wait"
        click.echo(
            f"{what} to be built: run `cleanroom run`, or start `cleanroom dev` unless it is running.", err=True
        )
    if run:
        _say_inboxes(installation, changes)
        _raise_on_failure(installation.catalog, [change.id for change in changes])


def _apply(installation: "Installation", declaration: "Declaration", *, dry_run: bool) -> "list[DeclaredChange]":
    from cleanroom_pipelines.declarations import apply_declaration

    return apply_declaration(
        installation.catalog,
        installation.vault,
        declaration,
        new_slot=lambda: installation.token_hex(12),
        sources_of=installation.sources_of,
        dry_run=dry_run,
        check_tables=True,
    )


def _say_inboxes(installation: "Installation", changes: "list[DeclaredChange]") -> None:
    """Print the inbox folder of each declared model that is ready for seeds."""
    from cleanroom_pipelines.catalog import Kind
    from cleanroom_pipelines.runs.inbox_folders import folder_of

    for change in changes:
        if change.kind is Kind.CONFIGURED_AUDIENCE_MODEL and (
            record := installation.catalog.resources.find(change.id)
        ):
            folder = folder_of(installation, record)
            if folder.is_dir():
                click.echo(f"Seeds for {change.name!r} can be put into {folder}/", err=True)


def _action_of(action: str, dry_run: bool) -> str:
    if dry_run:
        return "keeps" if action == "keep" else f"would {action}"
    return {"create": "created", "update": "updated", "retry": "retried", "keep": "kept"}[action]


def _raise_on_failure(catalog: "Catalog", ids: list[str]) -> None:
    """Raise an error with the reason of the first failed resource, if the work on any of them failed."""
    from cleanroom_pipelines.runs.reasons import failure_of

    records = [record for key in ids if (record := catalog.resources.find(key)) is not None]
    failures = [failure for record in records if (failure := failure_of(catalog, record.kind, record.id))]
    if failures:
        first = failures[0].root
        raise CleanroomError(
            f"{len(failures)} of {len(records)} declared resources failed. The {first.kind.words} {first.name!r} "
            f"failed: {failures[0].reason}"
        )


@cleanroom.command()
@click.option("--max-seconds", type=float, help="Do not start runs after this many seconds.")
@click.option(
    "--wait",
    is_flag=True,
    help="Also wait for other processes to finish their work, and do the work that depends on it.",
)
def run(max_seconds: float | None, wait: bool) -> None:
    """Ingest the files in the inbox and do all pending work in this process, without a daemon."""
    from cleanroom_pipelines.cli.watching import run_pending_watched, unfinished_sentence

    installation = open_installation()
    n_runs = run_pending_watched(installation, max_seconds=max_seconds, wait=wait)
    click.echo(f"Finished {n_runs} {'run' if n_runs == 1 else 'runs'}.")
    if sentence := unfinished_sentence(installation.catalog):
        click.echo(sentence)


@cleanroom.command()
@click.argument("name", metavar="NAME")
def cancel(name: str) -> None:
    """Cancel the work on the resource with this name or partition key."""
    from cleanroom_pipelines.runs.resources import resource_named

    catalog = read_installation().catalog
    record = resource_named(catalog, name)
    version = catalog.work.request_cancel(record.kind, record.id)
    click.echo(f"Asked version {version.number} of the {record.kind.words} {record.name!r} to stop.")


@cleanroom.command()
@click.option(
    "--interactions",
    required=True,
    help="File, folder or glob (.parquet, .csv, .jsonl, each also .gz), or a source such as s3://bucket/folder.",
)
@click.option("--users", help="Table with one row per user, for additional features.")
@click.option(
    "--schema",
    required=True,
    help="Columns and their roles: column=ROLE,…, such as user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP. With "
    "title=ITEM_NAME, explanations name the items.",
)
@click.option("--users-schema", help="Roles of the users table's columns, as in --schema.")
@click.option("--out", "out", type=_FILE, required=True, help="Folder to create.")
@click.option("--start", help="Start of the training window: date, ISO time or epoch seconds.")
@click.option("--end", help="End of the training window, exclusive.")
@click.option("--memory", help="Memory limit of the engine, such as 8GB.")
@click.option("--threads", type=int, help="Number of threads; it does not affect the result.")
@_ENGINE
@click.option(
    "--day-cache", type=_FILE, help="Folder that caches remote files, and the interactions counted in each file."
)
@click.option(
    "--max-invalid",
    default="5%",
    show_default=True,
    help="Maximum share of invalid rows, which are ignored. If there are more, training fails.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def train(as_json: bool, **options: Any) -> None:
    """Train an audience model, without Dagster."""
    from cleanroom_pipelines.cli.bare import train_model
    from cleanroom_pipelines.similarity.specs import WARNINGS

    with progress_bar("train") as progress:
        report = train_model(progress=progress, **options)
    if as_json:
        print_json(report.as_dict())
        return
    click.echo(
        f"Trained on {report.n_interactions:,} interactions of {report.n_users:,} users with {report.n_items:,} "
        f"items in {sum(report.timing_seconds.values()):.1f} s."
    )
    for code in report.warnings:
        click.echo(f"Warning: {WARNINGS[code]}")


@cleanroom.command()
@click.option("--model", type=_FILE, required=True, help="Folder created by `cleanroom train`.")
@click.option(
    "--seed", required=True, help="The seed: .jsonl, .csv or .parquet, each also .gz, or a source such as s3://…"
)
@click.option("--out", type=_FILE, required=True, help="Folder to create.")
@click.option("--sizes", default="1%,5%,10%,20%", show_default=True, help="Audience sizes to report on.")
@click.option(
    "--seed-mode", type=click.Choice(["excluded", "first", "in_place"]), default="excluded", show_default=True
)
@click.option(
    "--min-matching-seed-size",
    type=int,
    default=500,
    show_default=True,
    help="Minimum number of seed users that must be in the model.",
)
@click.option("--memory", help="Memory limit of the engine, such as 8GB.")
@click.option("--threads", type=int, help="Number of threads; it does not affect the result.")
@_ENGINE
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def generate(as_json: bool, **options: Any) -> None:
    """Rank users by similarity to a seed, without Dagster."""
    from cleanroom_pipelines.cli.bare import generate_audience

    with progress_bar("generate") as progress:
        report = generate_audience(progress=progress, **options)
    if as_json:
        print_json(report.metrics)
        return
    click.echo(report.sentence)
    if report.items_in_words:
        click.echo(f"Most distinctive items of the seed: {report.items_in_words}")
    for warning in report.metrics["warnings"]:
        click.echo(f"Warning: {warning['message']}")


@cleanroom.command()
@click.option("--model", type=_FILE, required=True, help="Folder created by `cleanroom train`.")
@click.option(
    "--seed", required=True, help="The seed: .jsonl, .csv or .parquet, each also .gz, or a source such as s3://…"
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def match(model: Path, seed: str, as_json: bool) -> None:
    """Count how many seed users are in a model."""
    from cleanroom_pipelines.cli.bare import match_users

    found, why = match_users(model=model, seed=seed)
    if why:
        click.echo(why, err=True)
    if as_json:
        print_json(found.as_dict())
        return
    click.echo(
        f"{found.n_matched:,} of {found.n_unique:,} seed users are known to the model ({found.match_rate:.1%}); "
        f"{found.n_duplicates:,} duplicates, {found.n_invalid:,} invalid rows."
    )


@cleanroom.command()
@click.argument("file", type=_FILE)
def backup(file: Path) -> None:
    """Back up the installation to FILE, a tar archive.

    The backup contains the installation key.
    """
    from cleanroom_pipelines.runs.backups import back_up

    installation = read_installation()
    back_up(installation, file)
    installation.audit.write({"way": "cli", "operation": "backup", "outcome": "ok"})
    click.echo("Backed up. The file contains the installation key: protect it like the home.")


@cleanroom.command()
@click.argument("file", type=_FILE)
@click.option(
    "--nothing-asked-since",
    is_flag=True,
    help="Confirm that no privacy budget was spent after the backup; budgets then keep their remaining units.",
)
def restore(file: Path, nothing_asked_since: bool) -> None:
    """Restore a backup into CLEANROOM_HOME, which must be empty.

    A backup does not contain later spending of privacy budgets. Every budget therefore counts as fully spent,
    unless you pass --nothing-asked-since.
    """
    from cleanroom_pipelines.runs.backups import restore as restore_backup
    from cleanroom_pipelines.runs.budgets import restore_ledgers
    from cleanroom_pipelines.runs.installation import Installation, Settings

    if not file.is_file():
        raise UsageError("The backup was not found.", remedy="Check its path.")
    settings = Settings.from_environment()
    restore_backup(file, settings.home)
    installation = Installation(replace(settings, key_file=None))
    budgets = restore_ledgers(installation, is_complete=nothing_asked_since)
    installation.audit.write({"way": "cli", "operation": "restore", "outcome": "ok"})
    click.echo(f"Restored. {budgets}".strip())
    if settings.key_file:
        click.echo(
            f"The installation key is in {settings.home}; move it to the path in CLEANROOM_KEY_FILE.", err=True
        )


if __name__ == "__main__":
    main()
