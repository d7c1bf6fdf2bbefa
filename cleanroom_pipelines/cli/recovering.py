"""`cleanroom recover`: rebuild a lost or outdated catalogue from the artifacts' manifests.

Lives here: showing the plan and asking for confirmation.
Keep out: making the plan from manifests (runs.recovery).
"""

from typing import TYPE_CHECKING, Any

import click

from cleanroom_pipelines.cli.console import JSON, confirm, open_installation, print_json, print_result

if TYPE_CHECKING:
    from cleanroom_pipelines.runs.recovery import Plan

_NOT_IN_MANIFESTS = "accounts, access keys, users, tokens, collaborations, templates, buckets and data-room jobs"


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what can be rebuilt, without changing anything.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@JSON
def recover(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Rebuild a lost catalogue from stored artifacts.

    Also updates an outdated catalogue. The command shows its plan first. Stop `serve`, `dev` and workers before
    you start. If you have a backup, restore it instead: it recovers more.
    """
    from cleanroom_pipelines.runs.budgets import restore_ledgers
    from cleanroom_pipelines.runs.recovery import planned_recovery

    with planned_recovery(open_installation()) as recovery:
        if recovery is None:
            nothing = "The catalogue is intact; there is nothing to recover."
            print_result({"catalogue": None}, nothing, as_json=as_json)
            return
        if as_json:
            print_json(_as_dict(recovery.plan))
        else:
            _show(recovery.plan)
        if dry_run:
            return
        confirm("Rebuild the catalogue?", yes=yes)
        rebuilt = recovery.write()
    installation = open_installation()
    budgets = restore_ledgers(installation)
    installation.audit.write({"way": "cli", "operation": "recover", "outcome": "ok"})
    click.echo(
        f"Rebuilt {rebuilt.n_resources} resources and {rebuilt.n_versions} versions. {budgets}", err=as_json
    )


def _show(plan: "Plan") -> None:
    click.echo(plan.catalogue)
    for resource in plan.resources:
        numbers = ", ".join(str(version.number) for version in resource.versions)
        verb = "create" if resource.dossier else "add to"
        name = resource.name or plan.known[resource.id]
        click.echo(f"  {verb} {resource.kind.words} {name!r} {resource.id}: version {numbers}")
    for lost in plan.lost:
        click.echo(f"  cannot be rebuilt: {lost.kind.words} {lost.id}, {lost.why}; its artifacts are kept")
    for record in plan.gone:
        click.echo(f"  artifacts are missing: {record.kind.words} {record.name!r} {record.id}")
    if plan.n_unreadable:
        click.echo(f"  {plan.n_unreadable} manifests cannot be read")
    click.echo(f"Manifests do not contain {_NOT_IN_MANIFESTS}. Those that the catalogue lacks are lost.")


def _as_dict(plan: "Plan") -> dict[str, Any]:
    from cleanroom_pipelines.catalog import Status

    return {
        "catalogue": plan.catalogue,
        "rebuilt": [
            {
                "kind": resource.kind.value,
                "id": resource.id,
                "name": resource.name or plan.known[resource.id],
                "is_new": resource.dossier is not None,
                "versions": [
                    {
                        "number": version.number,
                        "status": Status.CREATE_FAILED if version.failure else Status.ACTIVE,
                    }
                    for version in resource.versions
                ],
            }
            for resource in plan.resources
        ],
        "lost": [{"kind": lost.kind.value, "id": lost.id, "why": lost.why} for lost in plan.lost],
        "gone": [{"kind": record.kind.value, "id": record.id, "name": record.name} for record in plan.gone],
        "n_unreadable": plan.n_unreadable,
    }
