"""Contract: contracts/privacy.md, sections 4 and 7. `cleanroom ledger` says what each pair spent and what that
proves; with --json every line with its noise, from which an auditor recomputes the bound. Organisations are the
operator's."""

import json
from fractions import Fraction

from cleanroom_pipelines.execution.budgets import Budget, Question
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.privacy import COUNT, INSIGHTS, Spent
from cleanroom_pipelines.privacy.accounting import attacker_success

from .commands import Commands


def pay(installation: Installation) -> Budget:
    pair = installation.catalog.pair("publisher.example", "advertiser.example")
    budget = Budget(installation, pair, "r-000000000001")
    budget.pay([Question.of("insights", "content", "secret text", INSIGHTS)], "advertiser.example")
    budget.pay([Question.of("size", "content", "another text", COUNT)], "advertiser.example")
    return budget


def test_no_pair_is_no_ledger(command: Commands, installation: Installation) -> None:
    assert command("ledger").out == "No two organisations' data have met yet.\n"
    assert json.loads(command("ledger", "--json").out) == []
    ended = command("ledger", "publisher.example+advertiser.example")
    assert (ended.code, ended.out) == (2, "")


def test_a_ledger_is_told_and_can_be_recomputed(command: Commands, installation: Installation) -> None:
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


def test_organisations_are_said_where_users_and_accounts_are_made(
    command: Commands, installation: Installation
) -> None:
    assert command("user", "create", "one@gmail.com", "--organization", "Publisher").code == 0
    assert command("user", "create", "two@publisher.example").code == 0
    assert command("account", "create", "alpha", "--id", "111122223333", "--organization", "Publisher").code == 0
    assert command("account", "create", "beta", "--id", "444455556666").code == 0
    catalog = installation.catalog
    assert catalog.organization_of_user("one@gmail.com") == "publisher"
    assert catalog.organization_of_user("two@publisher.example") == "publisher.example"
    assert catalog.organization_of_account("111122223333") == "publisher"
    assert catalog.organization_of_account("444455556666") == "444455556666"
