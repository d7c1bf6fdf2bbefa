"""`cleanroom audit`: verify and show the audit log.

Lives here: the two commands, with text and JSON output.
Keep out: the chain itself (storage.audit).
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from cleanroom_pipelines.cli.console import JSON, print_json, read_installation
from cleanroom_pipelines.errors import InputError, UsageError


@click.group()
def audit() -> None:
    """Verify and read the audit log."""


@audit.command()
@click.option(
    "--expect",
    metavar="SEQ:HMAC",
    help="Newest digest (head) that an earlier `verify` printed; the log must still contain its entry.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def verify(context: click.Context, expect: str | None, as_json: bool) -> None:
    """Check whether entries were changed, removed, moved or inserted; if so, exit with code 2."""
    verdict = read_installation().audit.verify(expect=_head(expect))
    if as_json:
        print_json(
            {
                "ok": verdict.ok,
                "n_entries": verdict.n_entries,
                "problem": verdict.problem,
                "at": verdict.at,
                "cut_off": list(verdict.cut_off),
                "head": str(verdict.head) if verdict.n_entries else None,
            }
        )
        context.exit(0 if verdict.ok else 2)
    if verdict.problem is not None:
        raise InputError(
            verdict.problem, remedy="Compare the log with a backup, and find out who had access to the disk."
        )
    for number in verdict.cut_off:
        click.echo(
            f"A kill or power cut interrupted the write before entry {number}; the request that caused this write "
            "got no response."
        )
    click.echo(f"The audit log is intact: {verdict.n_entries:,} entries.")
    if verdict.n_entries:
        click.echo(f"Save this newest digest (head) elsewhere, and give it to a later `--expect`: {verdict.head}")


@audit.command()
@click.option("--account", help="Only entries of this account, 12 digits.")
@click.option("--since", help="Only entries since this date or ISO time, UTC.")
@JSON
def show(account: str | None, since: str | None, as_json: bool) -> None:
    """Print audit entries, without verifying them."""
    entries = read_installation().audit.entries(account=account, since=_moment(since))
    if as_json:
        _print_array(entries)
        return
    for entry in entries:
        # as JSON text: in a tampered log a value may be anything
        words = (
            _word(entry.get(field)) for field in ("time", "way", "account", "operation", "outcome", "resource")
        )
        rest = (_word(entry[field]) for field in ("error", "cut_off") if field in entry)
        click.echo("  ".join((*words, *rest)))


def _head(text: str | None) -> Any:
    from cleanroom_pipelines.storage.audit import AuditHead

    try:
        return None if text is None else AuditHead.parse(text.strip())
    except ValueError:
        raise UsageError(
            "The expected digest does not have the form SEQUENCE:HMAC.",
            remedy="Give the newest digest (head) that an earlier `verify` printed.",
        ) from None


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            "The time of --since is invalid.", remedy="Write 2026-03-01 or 2026-03-01T12:00."
        ) from None


def _print_array(entries: Iterator[dict[str, Any]]) -> None:
    """Stream the entries as a JSON array, one per line."""
    between = "[\n"
    for entry in entries:
        click.echo(between + json.dumps(entry, sort_keys=True), nl=False)
        between = ",\n"
    click.echo("[]" if between == "[\n" else "\n]")


def _word(value: Any) -> str:
    return "-" if value is None else json.dumps(value, separators=(",", ":")).strip('"')
