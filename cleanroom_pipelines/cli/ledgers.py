"""`cleanroom ledger`: privacy budgets of pairs of organisations.

Lives here: listing pairs, one pair's entries, the ledger file for auditors, and recording approved changes.
Add here when the operator can see more of a pair.
Keep out: questions and payments (HTTP) and the arithmetic (privacy.accounting).
"""

from collections.abc import Sequence
from typing import Any

import click

from cleanroom_pipelines.cli.console import confirm, print_json, read_installation
from cleanroom_pipelines.errors import NotFoundError, UsageError


@click.command()
@click.argument("pair", required=False)
@click.option(
    "--refill", type=click.IntRange(1), metavar="UNITS", help="Add units to the pair's budget, permanently."
)
@click.option("--period", type=click.Choice(["month"]), help="Renew the budget every month, permanently.")
@click.option(
    "--share", metavar="ORGANIZATION=UNITS", help="Maximum number of units that one organisation may spend."
)
@click.option(
    "--approved-by", multiple=True, metavar="ACCOUNT", help="Account that approved the change, by id or name."
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print all entries with their noise as JSON, for auditors.")
def ledger(  # noqa: PLR0917 click passes them by name
    pair: str | None,
    refill: int | None,
    period: str | None,
    share: str | None,
    approved_by: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Show or change privacy budgets of pairs of organisations.

    Lists all pairs, or shows one PAIR with its entries. PAIR is an id from the list, or two organisations joined
    by a plus: publisher.example+advertiser.example.

    Organisations that share a data room approve a --refill, --period or --share there. For organisations that only
    have accounts, the operator records their approval: name one account of each organisation with --approved-by.
    The command shows the effect and asks for confirmation.
    """
    installation = read_installation()
    pairs = installation.catalog.pairs.all() if pair is None else (_named(installation, pair),)
    changes = [each for each in (refill, period, share) if each is not None]
    if changes or approved_by:
        if pair is None or len(changes) != 1:
            raise UsageError(
                "To change a budget, name one pair of organisations and one change.",
                remedy="Give PAIR, and one of --refill, --period and --share.",
            )
        _agree(installation, pairs[0], _change(refill, share), approved_by, yes=yes)
    summaries = [_summary_of(installation, each) for each in pairs]
    if as_json:
        print_json(summaries if pair is None else summaries[0])
        return
    if not summaries:
        click.echo("No pair of organisations has a privacy budget yet.")
    for each in summaries:
        _show(each, with_lines=pair is not None)


def _named(installation: Any, name: str) -> Any:
    from cleanroom_pipelines.catalog.pairs import pair_id_of

    organizations = [each.strip().lower() for each in name.split("+")]
    pair_id = pair_id_of(*organizations) if len(organizations) == 2 else name
    for each in installation.catalog.pairs.all():
        if each.id == pair_id:
            return each
    raise NotFoundError("There is no such pair of organisations.", remedy="List all pairs: cleanroom ledger.")


def _change(refill: int | None, share: str | None) -> tuple[str, int, str | None]:
    """Return the requested change: its kind, its size in tenths of a unit, and the organisation of a share."""
    from cleanroom_pipelines.catalog.pairs import PERIOD, REFILL, SHARE
    from cleanroom_pipelines.privacy.accounting import TENTHS

    if refill is not None:
        return REFILL, refill * TENTHS, None
    if share is None:
        return PERIOD, 0, None
    organization, _, units = share.rpartition("=")
    if not organization or not units.isdecimal():
        raise UsageError("The share is invalid.", remedy="Write ORGANIZATION=UNITS, such as agency.example=20.")
    return SHARE, int(units) * TENTHS, organization.lower()


def _agree(
    installation: Any, pair: Any, change: tuple[str, int, str | None], approved_by: Sequence[str], *, yes: bool
) -> None:
    """Record a budget change that both organisations approved, after showing its effect."""
    from cleanroom_pipelines.catalog.pairs import check_both_approve
    from cleanroom_pipelines.runs.budgets import known_organizations, organization_digest

    catalog = installation.catalog
    kind, tenths, share_of = change
    limited = None
    if share_of is not None:
        if share_of not in known_organizations(installation):
            raise UsageError("No user or account belongs to the organisation.", remedy="Check its name.")
        limited = organization_digest(installation, share_of)
    accounts = [catalog.parties.account_named(each) for each in approved_by]
    organizations = {catalog.pairs.organization_of_account(each) for each in accounts}
    check_both_approve(pair, organizations)
    click.echo(_effect(catalog.pairs.ledger(pair.id, share_of), kind, tenths), err=True)
    confirm("Did both organisations approve this?", yes=yes)
    catalog.pairs.agree(pair.id, kind, organizations, tenths=tenths, share_of=share_of)
    for each in accounts:
        approval = {"operation": "approve", "pair": pair.id, "kind": kind, "tenths": tenths, "account": each}
        installation.audit.write({"way": "cli", "outcome": "ok", "organization": limited, **approval})


def _effect(now: Any, kind: str, tenths: int) -> str:
    """Describe how a change affects the budget and privacy bound of a pair of organisations."""
    from cleanroom_pipelines.catalog.pairs import SHARE
    from cleanroom_pipelines.privacy import in_units
    from cleanroom_pipelines.runs.budgets import bound_of, ledger_after

    if kind == SHARE:
        before = "no share is set" if now.share is None else f"the share is {in_units(now.share)} units"
        return f"Now {before}. After the change the share is {in_units(tenths)} units."

    def of(ledger: Any) -> str:
        bound, lasts = bound_of(ledger), "per month" if ledger.period else "in total"
        in_a_year = bound.get("right_at_most_in_a_year")
        year = f", and in {in_a_year:.0%} within a year" if in_a_year else ""
        right = f"an attacker guesses correctly in at most {bound['right_at_most']:.0%} of cases{year}"
        return f"{in_units(ledger.total)} units {lasts} ({right})"

    return f"Now {of(now)}. After the change {of(ledger_after(now, kind, tenths))}."


def _summary_of(installation: Any, pair: Any) -> dict[str, Any]:
    from cleanroom_pipelines.privacy import in_units
    from cleanroom_pipelines.runs.budgets import bound_of, composed

    ledger, lines = installation.catalog.pairs.ledger(pair.id), installation.catalog.pairs.ledger_lines(pair.id)
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
                "organization": each.organization,
                "approved_by": list(each.approved_by),
                "effective_at": each.effective_at.isoformat() if each.effective_at else None,
            }
            for each in installation.catalog.pairs.proposals(pair.id)
        ],
    }


def _show(summary: dict[str, Any], *, with_lines: bool) -> None:
    period = " this month" if summary["period"] else ""
    so_far, in_all = summary["composed"]["right_at_most"], summary["bound"]["right_at_most"]
    click.echo(f"{' + '.join(summary['organizations'])}  {summary['id']}")
    click.echo(f"  {summary['spent']} of {summary['total']} units spent{period}, {summary['left']} left.")
    click.echo(
        f"  An attacker correctly guesses whether a person is in the data in at most {so_far:.1%} of cases so "
        f"far, and in {in_all:.0%} once all units are spent."
    )
    if with_lines:
        for line in summary["lines"]:
            where = line["place"] or ""
            click.echo(f"  {(line['at'] or '')[:19]}  {line['units']:>6} {line['kind']:<12} {where}")
