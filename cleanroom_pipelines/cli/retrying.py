"""`cleanroom retry`: retry failed resources.

Lives here: the command.
Keep out: queueing all failed work (runs.retrying), what a retry changes (catalogue), doing the work (run, serve, a
daemon).
"""

import click

from cleanroom_pipelines.cli.console import print_json, read_installation
from cleanroom_pipelines.errors import UsageError


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--failed", is_flag=True, help="Retry every resource whose newest version failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def retry(names: tuple[str, ...], failed: bool, as_json: bool) -> None:
    """Retry failed resources, given by name or partition key.

    `run`, `serve` or a daemon then does the work.
    """
    from cleanroom_pipelines.runs.finding import resource_named
    from cleanroom_pipelines.runs.retrying import retry_failed

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
