"""Contract: two organisations have one ledger, whichever of them asks, and units are never restored.

A question that costs too much changes nothing; a change that both must approve takes effect once both have
approved it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cleanroom_pipelines.catalog import Catalog, LedgerLine
from cleanroom_pipelines.catalog.pairs import organization_of_address
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError

from .building import Clock
from .dialects import on_both_dialects

DAY = 86_400


def line(text: str, tenths: int = 20) -> LedgerLine:
    return LedgerLine(f"{text:0>64}", "size", tenths)


def pair_of(catalog: Catalog, pair_id: str) -> tuple[str, ...]:
    return next(each.organizations for each in catalog.pairs.all() if each.id == pair_id)


@pytest.fixture
def pair(catalog: Catalog) -> str:
    return catalog.pairs.pair("publisher.example", "advertiser.example").id


@pytest.mark.parametrize(
    ("email", "organization"),
    [
        ("data@publisher.example", "publisher.example"),
        ("crm@publisher.example", "publisher.example"),
        ("one@gmail.com", "one@gmail.com"),
        ("two@web.de", "two@web.de"),
        ("a@mail.publisher.example", "mail.publisher.example"),
    ],
)
def test_organisation_is_the_domain_or_the_public_mail_address(email: str, organization: str) -> None:
    assert organization_of_address(email) == organization


def test_organisation_set_by_the_operator_takes_precedence(catalog: Catalog) -> None:
    catalog.users.create_user("data@publisher.example")
    catalog.users.create_user("one@gmail.com")
    account = catalog.parties.create_account("alpha").id
    assert catalog.pairs.organization_of_user("data@publisher.example") == "publisher.example"
    assert catalog.pairs.organization_of_account(account) == account
    catalog.pairs.set_organization("Publisher", email="data@publisher.example")
    catalog.pairs.set_organization("publisher", email="one@gmail.com")
    catalog.pairs.set_organization("publisher", account_id=account)
    told = {catalog.pairs.organization_of_user(each) for each in ("data@publisher.example", "one@gmail.com")}
    assert told | {catalog.pairs.organization_of_account(account)} == {"publisher"}
    for nobody in ({"email": "nobody@x.example"}, {"account_id": "999999999999"}):
        with pytest.raises(NotFoundError):
            catalog.pairs.set_organization("x", **nobody)  # type: ignore[arg-type]


@on_both_dialects
def test_pair_is_independent_of_order(catalog: Catalog, pair: str) -> None:
    assert catalog.pairs.pair("advertiser.example", "publisher.example").id == pair
    assert catalog.pairs.pair("publisher.example", "publisher.example").id != pair
    assert [each.organizations for each in catalog.pairs.all()] == [
        ("advertiser.example", "publisher.example"),
        ("publisher.example", "publisher.example"),
    ]


@on_both_dialects
def test_paid_question_is_free_and_overspending_changes_nothing(catalog: Catalog, pair: str) -> None:
    paid = catalog.pairs.charge(pair, [line("a"), line("b", 900)])
    assert paid is not None
    assert (paid.spent, paid.total, paid.left) == (920, 1000, 80)
    again = catalog.pairs.charge(pair, [line("a"), line("c", 80)])
    assert again is not None
    assert again.spent == 1000
    assert catalog.pairs.charge(pair, [line("a"), line("d", 1)]) is None
    assert catalog.pairs.paid_among(pair, [line("a").key, line("d").key]) == {line("a").key}
    assert {each.key for each in catalog.pairs.ledger_lines(pair)} == {line(each).key for each in "abc"}
    with pytest.raises(NotFoundError):
        catalog.pairs.charge("pair-" + "0" * 24, [line("a")])


@on_both_dialects
def test_unlogged_line_is_not_charged(catalog: Catalog, pair: str) -> None:
    """The audit log has each payment before the ledger: what ends in between counts, and is never free unseen."""
    noted: list[str] = []

    def note(paid: LedgerLine) -> None:
        if noted:
            raise OSError
        noted.append(paid.key)

    with pytest.raises(OSError):
        catalog.pairs.charge(pair, [line("a"), line("b")], note=note)
    assert catalog.pairs.ledger_lines(pair) == ()
    noted.clear()
    assert catalog.pairs.charge(pair, [line("a")], note=note) is not None
    assert catalog.pairs.charge(pair, [line("a")], note=note) is not None, "what was paid is noted once"
    assert catalog.pairs.charge(pair, [line("c", 990)], note=note) is None
    assert noted == [line("a").key]


@on_both_dialects
def test_concurrent_questions_do_not_overspend(catalog: Catalog, pair: str) -> None:
    assert catalog.pairs.charge(pair, [line("a", 970)]) is not None
    with ThreadPoolExecutor(4) as threads:
        paid = list(threads.map(lambda text: catalog.pairs.charge(pair, [line(text)]), "bcde"))
    assert sum(each is not None for each in paid) == 1
    assert catalog.pairs.ledger(pair).spent == 990


@on_both_dialects
def test_refill_takes_effect_once_after_both_approvals(catalog: Catalog, pair: str) -> None:
    wanted = catalog.pairs.propose(pair, "refill", "advertiser.example", tenths=500)
    for _ in range(2):
        approved = catalog.pairs.approve(wanted.id, "advertiser.example")
        assert (approved.approved_by, approved.effective_at) == (["advertiser.example"], None)
    with pytest.raises(ConflictError):
        catalog.pairs.approve(wanted.id, "third.example")
    assert catalog.pairs.propose(pair, "refill", "third.example", tenths=500).approved_by == []
    for _ in range(2):
        assert catalog.pairs.approve(wanted.id, "publisher.example").effective_at is not None
        assert catalog.pairs.ledger(pair).total == 1500
    with pytest.raises(NotFoundError):
        catalog.pairs.approve("no-such-proposal", "publisher.example")
    for tenths in (0, -10, 1001):
        with pytest.raises(UsageError):
            catalog.pairs.propose(pair, "refill", "publisher.example", tenths=tenths)


@on_both_dialects
def test_share_limits_one_organisation_after_both_approvals(catalog: Catalog, clock: Clock, pair: str) -> None:
    agency = replace(line("a", 150), organization="agency.example")
    assert catalog.pairs.charge(pair, [agency], organization="agency.example") is not None
    wanted = catalog.pairs.propose(pair, "share", "advertiser.example", tenths=200, share_of="agency.example")
    assert catalog.pairs.ledger(pair, "agency.example").left == 850, "one provider does not limit anybody alone"
    clock.turn(1)
    assert catalog.pairs.approve(wanted.id, "publisher.example").organization == "agency.example"
    ledger = catalog.pairs.ledger(pair, "agency.example")
    assert (ledger.share, ledger.spent_of_share, ledger.left) == (200, 150, 50)
    assert catalog.pairs.ledger(pair, "advertiser.example").left == 850
    too_much = replace(line("b", 60), organization="agency.example")
    assert catalog.pairs.charge(pair, [too_much], organization="agency.example") is None
    assert catalog.pairs.charge(pair, [agency], organization="agency.example") is not None, "what was paid is free"
    assert catalog.pairs.charge(pair, [line("b", 60)], organization="advertiser.example") is not None
    clock.turn(1)
    catalog.pairs.agree(pair, "share", pair_of(catalog, pair), tenths=0, share_of="agency.example")
    assert catalog.pairs.ledger(pair, "agency.example").left == 0, "the newest share counts"
    assert catalog.pairs.ledger(pair, "other.example").share is None


def test_share_needs_an_organisation_and_a_valid_number(catalog: Catalog, pair: str) -> None:
    for given in (
        {"tenths": -1, "share_of": "agency.example"},
        {"tenths": 100_001, "share_of": "agency.example"},
        {"tenths": 10},
    ):
        with pytest.raises(UsageError):
            catalog.pairs.propose(pair, "share", "publisher.example", **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        catalog.pairs.propose(pair, "refill", "publisher.example", tenths=10, share_of="agency.example")
    assert catalog.pairs.proposals(pair) == ()


@on_both_dialects
def test_concurrent_questions_do_not_exceed_a_share(catalog: Catalog, pair: str) -> None:
    catalog.pairs.agree(pair, "share", pair_of(catalog, pair), tenths=30, share_of="agency.example")
    lines = [replace(line(text), organization="agency.example") for text in "abcd"]
    with ThreadPoolExecutor(4) as threads:
        paid = list(
            threads.map(lambda each: catalog.pairs.charge(pair, [each], organization="agency.example"), lines)
        )
    assert sum(each is not None for each in paid) == 1


@on_both_dialects
def test_monthly_budget_ignores_earlier_months(catalog: Catalog, clock: Clock, pair: str) -> None:
    catalog.pairs.charge(pair, [line("a", 1000)])
    clock.turn(40 * DAY)
    assert catalog.pairs.charge(pair, [line("b")]) is None, "a pair's life has no months"
    wanted = catalog.pairs.propose(pair, "period", "advertiser.example")
    assert catalog.pairs.charge(pair, [line("b")]) is None
    catalog.pairs.approve(wanted.id, "publisher.example")
    paid = catalog.pairs.charge(pair, [line("b")])
    assert paid is not None
    assert (paid.spent, paid.period) == (20, "month")
    assert catalog.pairs.paid_among(pair, [line("a").key]), "and still free"
    assert len(catalog.pairs.ledger_lines(pair)) == 2


@on_both_dialects
def test_full_ensemble_approval_is_per_room_and_pair(catalog: Catalog, pair: str) -> None:
    wanted = catalog.pairs.propose(pair, "full_lookalike", "advertiser.example", data_room_id="room")
    assert not catalog.pairs.is_full_lookalike(pair, "room")
    catalog.pairs.approve(wanted.id, "publisher.example")
    assert catalog.pairs.is_full_lookalike(pair, "room")
    assert not catalog.pairs.is_full_lookalike(pair, "another room")
    other = catalog.pairs.pair("publisher.example", "third.example").id
    assert not catalog.pairs.is_full_lookalike(other, "room")


@on_both_dialects
def test_audit_log_payments_count_beyond_the_budget(catalog: Catalog, pair: str) -> None:
    catalog.pairs.charge(pair, [line("a", 990)])
    catalog.pairs.restore_lines(pair, [line("a", 990), line("b", 500)])
    assert catalog.pairs.ledger(pair).spent == 1490
    assert catalog.pairs.ledger(pair).left == 0
    unknown = "pair-" + "1" * 24
    catalog.pairs.restore_lines(unknown, [line("a")])
    assert catalog.pairs.ledger(unknown).spent == 20
    assert catalog.pairs.spend_rest("unknown") == 2
    assert catalog.pairs.ledger(unknown).left == 0
