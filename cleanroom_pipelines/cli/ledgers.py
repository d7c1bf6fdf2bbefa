"""`cleanroom ledger`: what the outputs about two organisations' data have cost, and what that proves.

Lives here: listing the pairs, one pair's lines, and its ledger file for auditors.
Add here when the operator can see something more of a pair.
Keep out: asking and paying (the ways in) and the arithmetic (privacy.accounting).
"""

from typing import Any

import click

from cleanroom_pipelines.cli.console import open_installation, print_json
from cleanroom_pipelines.errors import NotFoundError


@click.command()
@click.argument("pair", required=False)
@click.option("--json", "as_json", is_flag=True, help="The ledger file: every line with its noise, for auditors.")
def ledger(pair: str | None, as_json: bool) -> None:
    """Show what a PAIR of organisations has spent of its privacy budget; all pairs if none is named.

    PAIR is an id as listed, or two organisations with a plus between: publisher.example+advertiser.example.
    """
    from cleanroom_pipelines.catalog.pairs import pair_id_of

    installation = open_installation()
    pairs = installation.catalog.pairs()
    if pair is not None:
        organizations = [each.strip().lower() for each in pair.split("+")]
        wanted = pair_id_of(*organizations) if len(organizations) == 2 else pair
        pairs = tuple(each for each in pairs if each.id == wanted)
        if not pairs:
            raise NotFoundError("There is no such pair of organisations.", remedy="See all: cleanroom ledger.")
    told = [_told(installation, each) for each in pairs]
    if as_json:
        print_json(told if pair is None else told[0])
        return
    if not told:
        click.echo("No two organisations' data have met yet.")
    for each in told:
        _show(each, with_lines=pair is not None)


def _told(installation: Any, pair: Any) -> dict[str, Any]:
    from cleanroom_pipelines.execution.budgets import bound_of, composed
    from cleanroom_pipelines.privacy import in_units

    ledger, lines = installation.catalog.ledger(pair.id), installation.catalog.ledger_lines(pair.id)
    return {
        "id": pair.id,
        "organizations": list(pair.organizations),
        "spent": in_units(ledger.spent),
        "total": in_units(ledger.total),
        "left": in_units(ledger.left),
        "period": ledger.period or None,
        "bound": bound_of(ledger),
        "composed": composed(lines),
        "lines": [
            {
                "at": line.created_at.isoformat() if line.created_at else None,
                "kind": line.kind,
                "units": in_units(line.tenths),
                "variance": line.variance,
                "sensitivity": line.sensitivity,
                "place": line.place,
                "organization": line.organization,
                "question": line.key,
            }
            for line in lines
        ],
        "proposals": [
            {
                "id": each.id,
                "kind": each.kind,
                "units": in_units(each.tenths),
                "approved_by": list(each.approved_by),
                "effective_at": each.effective_at.isoformat() if each.effective_at else None,
            }
            for each in installation.catalog.proposals(pair.id)
        ],
    }


def _show(told: dict[str, Any], *, with_lines: bool) -> None:
    period = " this month" if told["period"] else ""
    so_far, in_all = told["composed"]["right_at_most"], told["bound"]["right_at_most"]
    click.echo(f"{' + '.join(told['organizations'])}  {told['id']}")
    click.echo(f"  {told['spent']} of {told['total']} units spent{period}, {told['left']} left.")
    click.echo(f"  An attacker is right in at most {so_far:.1%} so far, {in_all:.0%} once all units are spent.")
    if with_lines:
        for line in told["lines"]:
            where = line["place"] or ""
            click.echo(f"  {(line['at'] or '')[:19]}  {line['units']:>6} {line['kind']:<12} {where}")
