"""`cleanroom ledger` reports the privacy budgets of pairs.

Contract: the command reports spending and bounds; --json prints every
entry with its noise, from which an auditor can recompute the bound. The operator assigns organisations. For pairs
that only have accounts, changes approved by both are recorded, after showing the new bound.
"""

import json
from fractions import Fraction

import pytest
from sqlalchemy import create_engine, text

from cleanroom_pipelines.privacy import COUNT, INSIGHTS, BudgetSpentError, Spent
from cleanroom_pipelines.privacy.accounting import attacker_success
from cleanroom_pipelines.runs.budgets import Budget, Question, replay
from cleanroom_pipelines.runs.installation import Installation

from .commands import Commands


def pay(installation: Installation) -> Budget:
    pair = installation.catalog.pairs.pair("publisher.example", "advertiser.example")
    budget = Budget(installation, pair, "r-000000000001")
    budget.pay([Question.of("insights", "content", "secret text", INSIGHTS)], "advertiser.example")
    budget.pay([Question.of("size", "content", "another text", COUNT)], "advertiser.example")
    return budget


def test_ledger_is_empty_without_pairs(command: Commands, installation: Installation) -> None:
    _ = installation.catalog  # to read creates no home
    assert command("ledger").out == "No pair of organisations has a privacy budget yet.\n"
    assert json.loads(command("ledger", "--json").out) == []
    ended = command("ledger", "publisher.example+advertiser.example")
    assert (ended.code, ended.out) == (2, "")


def test_ledger_is_shown_and_can_be_recomputed(command: Commands, installation: Installation) -> None:
    pair = pay(installation).pair
    shown = command("ledger").out
    assert "advertiser.example + publisher.example" in shown
    assert "22 of 100 units spent, 78 left." in shown
    told = json.loads(command("ledger", "publisher.example+advertiser.example", "--json").out)
    assert told == json.loads(command("ledger", pair.id, "--json").out)
    assert (told["spent"], told["left"], told["bound"]["right_at_most"]) == (22, 78, 0.6)
    lines = [
        Spent(round(each["units"] * 10), Fraction(each["variance"]), Fraction(each["sensitivity"]))
        for each in told["lines"]
    ]
    assert told["composed"]["units"] == 22
    assert told["composed"]["right_at_most"] == round(attacker_success(lines), 4) < 0.6
    assert "text" not in json.dumps(told), "of a question there is a digest only"


def test_organisations_are_set_when_creating_users_and_accounts(
    command: Commands, installation: Installation
) -> None:
    assert command("user", "create", "one@gmail.com", "--organization", "Publisher").code == 0
    assert command("user", "create", "two@publisher.example").code == 0
    assert command("account", "create", "alpha", "--id", "111122223333", "--organization", "Publisher").code == 0
    assert command("account", "create", "beta", "--id", "444455556666").code == 0
    catalog = installation.catalog
    assert catalog.pairs.organization_of_user("one@gmail.com") == "publisher"
    assert catalog.pairs.organization_of_user("two@publisher.example") == "publisher.example"
    assert catalog.pairs.organization_of_account("111122223333") == "publisher"
    assert catalog.pairs.organization_of_account("444455556666") == "444455556666"


PUBLISHER, ADVERTISER, STRANGER = "222222222222", "111111111111", "333333333333"
PAIR = f"{PUBLISHER}+{ADVERTISER}"
BOTH = ("--approved-by", "publisher", "--approved-by", ADVERTISER)


@pytest.fixture
def of_accounts(installation: Installation) -> Budget:
    """A pair whose organisations have accounts only."""
    catalog = installation.catalog
    for name, account_id in (("publisher", PUBLISHER), ("advertiser", ADVERTISER), ("stranger", STRANGER)):
        catalog.parties.create_account(name, account_id)
    return Budget(installation, catalog.pairs.pair(PUBLISHER, ADVERTISER), "g-000000000001")


def approvals(installation: Installation) -> list[tuple[str, str, int, str]]:
    installation.audit.flush()
    names = ("pair", "kind", "tenths", "account")
    entries = [each for each in installation.audit.entries() if each["operation"] == "approve"]
    return [tuple(each[name] for name in names) for each in entries]


def test_refill_approved_by_both_accounts(
    command: Commands, installation: Installation, of_accounts: Budget
) -> None:
    ended = command("ledger", PAIR, "--refill", "100", *BOTH, "--yes", "--json")
    assert ended.err.splitlines()[0] == (
        "Now 100 units in total (an attacker guesses correctly in at most 60% of cases). "
        "After the change 200 units in total (an attacker guesses correctly in at most 64% of cases)."
    )
    told = json.loads(ended.out)
    assert (told["total"], told["bound"]["right_at_most"]) == (200, 0.64)
    (proposal,) = told["proposals"]
    assert (proposal["units"], sorted(proposal["approved_by"])) == (100, [ADVERTISER, PUBLISHER])
    assert proposal["effective_at"] is not None
    pair = of_accounts.pair.id
    assert approvals(installation) == [(pair, "refill", 1_000, each) for each in (PUBLISHER, ADVERTISER)]
    answered = of_accounts.as_dict()
    assert (answered["total"], answered["bound"]) == (200, told["bound"]), "as every later answer states it"


def test_period_approved_by_both_accounts(command: Commands, of_accounts: Budget) -> None:
    ended = command("ledger", of_accounts.pair.id, "--period", "month", *BOTH, "--yes")
    assert ended.code == 0
    bound = "an attacker guesses correctly in at most 60% of cases, and in 81% within a year"
    change = f"After the change 100 units per month ({bound})."
    assert change in ended.err
    assert of_accounts.ledger.period == "month"


def test_share_approved_by_both_accounts(
    command: Commands, installation: Installation, of_accounts: Budget
) -> None:
    ended = command("ledger", PAIR, "--share", f"{ADVERTISER}=20", *BOTH, "--yes", "--json")
    assert ended.err.splitlines()[0] == "Now no share is set. After the change the share is 20 units."
    (proposal,) = json.loads(ended.out)["proposals"]
    assert (proposal["kind"], proposal["units"], proposal["organization"]) == ("share", 20, ADVERTISER)
    assert of_accounts.as_dict(ADVERTISER) == of_accounts.as_dict() | {"share": 20, "left": 20}
    question = Question("size", "a" * 64, 210, Fraction(1))
    with pytest.raises(BudgetSpentError, match="20 of your organisation's share of 20 are left"):
        of_accounts.pay([question], ADVERTISER)
    assert of_accounts.ledger.spent == 0
    assert of_accounts.pay([question], PUBLISHER).spent == 210


def test_payer_is_restored_from_the_audit_log(
    command: Commands, installation: Installation, of_accounts: Budget
) -> None:
    of_accounts.pay([Question("size", "a" * 64, 20, Fraction(1))], ADVERTISER)
    installation.audit.flush()
    (entry,) = (each for each in installation.audit.entries() if each["operation"] == "charge")
    assert ADVERTISER not in json.dumps(entry)
    with create_engine(f"sqlite:///{installation.catalog.database.file}").begin() as connection:
        connection.execute(text("DELETE FROM ledger_lines"))
    replay(installation)
    (line,) = installation.catalog.pairs.ledger_lines(of_accounts.pair.id)
    assert line.organization == ADVERTISER


@pytest.mark.parametrize(
    "options",
    [
        ("--share", "x", *BOTH, "--yes"),
        ("--share", "unknown.example=20", *BOTH, "--yes"),
        ("--share", f"{ADVERTISER}=-1", *BOTH, "--yes"),
        ("--share", f"{ADVERTISER}=20", *BOTH[:2], "--yes"),
        ("--share", f"{ADVERTISER}=20", "--refill", "1", *BOTH, "--yes"),
        ("--refill", "100", *BOTH[:2], "--yes"),
        ("--refill", "100", *BOTH[:2], *BOTH[:2], "--yes"),
        ("--refill", "100", *BOTH, "--approved-by", STRANGER, "--yes"),
        ("--refill", "100", *BOTH[:2], "--approved-by", STRANGER, "--yes"),
        ("--refill", "100", "--yes"),
        ("--refill", "101", *BOTH, "--yes"),
        ("--refill", "0", *BOTH, "--yes"),
        ("--refill", "100", "--period", "month", *BOTH, "--yes"),
        ("--refill", "100", *BOTH),
        (*BOTH, "--yes"),
    ],
)
def test_change_without_both_approvals_and_confirmation_has_no_effect(
    command: Commands, installation: Installation, of_accounts: Budget, options: tuple[str, ...]
) -> None:
    before = of_accounts.ledger
    assert command("ledger", PAIR, *options).code != 0
    assert of_accounts.ledger == before
    assert installation.catalog.pairs.proposals(of_accounts.pair.id) == ()
    assert approvals(installation) == []


def test_refill_needs_a_pair(command: Commands, of_accounts: Budget) -> None:
    assert command("ledger", "--refill", "100", *BOTH, "--yes").code != 0
    assert of_accounts.ledger.total == 1_000
