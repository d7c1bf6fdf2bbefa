"""`cleanroom retry`: retry failed resources.

Lives here: selecting failed resources and queueing them, parents first.
Keep out: what a retry changes (catalogue), doing the work (run, serve, a daemon).
"""

from typing import TYPE_CHECKING

import click

from cleanroom_pipelines.cli.console import open_installation, print_json
from cleanroom_pipelines.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from cleanroom_pipelines.catalog import Catalog, Resource


@click.command()
@click.argument("partitions", nargs=-1, metavar="[PARTITION]...")
@click.option("--failed", is_flag=True, help="Retry every resource whose newest version failed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def retry(partitions: tuple[str, ...], failed: bool, as_json: bool) -> None:
    """Retry failed resources.

    `run`, `serve` or a daemon then does the work.
    """
    from cleanroom_pipelines.cli.deleting import resource_of

    if bool(partitions) == failed:
        raise UsageError("Give either partition keys or --failed.", remedy="See `cleanroom status` for both.")
    catalog = open_installation().catalog
    records = failed_resources(catalog) if failed else [resource_of(catalog, key) for key in partitions]
    queued, skipped = [], []
    for record in records:
        try:
            queued.append(catalog.work.retry(record.kind, record.id))
        except ConflictError as error:
            if not failed:
                raise
            skipped.append((record, str(error)))
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


def failed_resources(catalog: "Catalog") -> "list[Resource]":
    """List resources whose newest version failed, parents first."""
    from cleanroom_pipelines.catalog import Kind, Status

    return [
        record
        for kind in Kind
        for record, newest in catalog.resources.with_newest(kind)
        if newest.status is Status.CREATE_FAILED
    ]
