"""`cleanroom delete`: making a resource go, and what was made from it.

Lives here: asking whether it is meant, and the lines that say what goes.
Keep out: what may be deleted and in which order (catalogue), carrying it out (runs.deleting).
"""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cleanroom_pipelines.cli.console import open_installation
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError

if TYPE_CHECKING:
    from cleanroom_pipelines.catalog import Catalog, Resource


@click.command()
@click.argument("partition")
@click.option("--with-dependents", is_flag=True, help="Delete what was made from it as well.")
@click.option("--yes", is_flag=True, help="Do not ask whether it is meant.")
def delete(partition: str, with_dependents: bool, yes: bool) -> None:
    """Delete the resource with this partition key: its data, artifacts and traces in Dagster.

    A data room goes with everything that was provisioned and asked. What exports and lists wrote to a destination
    stays there, and so does the audit log. A resource that a declaration names comes back with the next `apply`.
    """
    from cleanroom_pipelines.runs.dagster_home import dagster_instance
    from cleanroom_pipelines.runs.deleting import delete_now

    installation = open_installation()
    record = resource_of(installation.catalog, partition)
    dependents = installation.catalog.deletion.made_from(record.kind, record.id)
    if dependents and not with_dependents:
        raise ConflictError(
            f"On the {record.kind.words} {record.name!r} depend: {_counted(dependents)}.",
            remedy="Delete those first, or all of them with --with-dependents.",
        )
    if not yes:
        _confirm(record, dependents)
    with dagster_instance(installation) as instance:
        delete_now(
            installation,
            instance,
            (*dependents, record),
            on_resource=lambda each: click.echo(f"Deleting the {each.kind.words} {each.name!r}.", err=True),
        )
    n_more = f", and {_counted(dependents)} with it" if dependents else ""
    click.echo(f"The {record.kind.words} {record.name!r} is gone{n_more}.")


def resource_of(catalog: "Catalog", partition: str) -> "Resource":
    """The resource with a partition key, of whatever kind.

    Raises:
        NotFoundError: There is none.
    """
    record = catalog.resources.find(partition)
    if record is None:
        raise NotFoundError("No resource has this partition key.", remedy="See `cleanroom status`.")
    return record


def _confirm(record: "Resource", dependents: Sequence["Resource"]) -> None:
    if not sys.stdin.isatty():
        raise UsageError("Nothing was deleted, since nobody is here to confirm it.", remedy="Add --yes.")
    what = f"the {record.kind.words} {record.name!r}"
    if dependents:
        what += f" and what was made from it: {_counted(dependents)}"
    click.confirm(f"Delete {what}? This cannot be undone.", abort=True)


def _counted(records: Sequence["Resource"]) -> str:
    counts = Counter(record.kind.words for record in records)
    return ", ".join(f"{n} {words}{'' if n == 1 else 's'}" for words, n in counts.items())
