"""`cleanroom delete`: delete a resource and its dependents.

Lives here: the confirmation and the output.
Keep out: what may be deleted and in which order (catalogue), the deletion itself (runs.deleting).
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cleanroom_pipelines.cli.console import confirm, read_installation
from cleanroom_pipelines.errors import ConflictError

if TYPE_CHECKING:
    from cleanroom_pipelines.catalog import Resource


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
    from cleanroom_pipelines.runs.finding import resource_named

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
