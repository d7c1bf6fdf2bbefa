"""Applying a declaration creates its parties.

Contract: applying creates the declared parties and their objects, and the resources of the declared account;
applying again changes nothing. Objects that parties rely on are never changed, and no key is created.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from cleanroom_pipelines.catalog import LOCAL_ACCOUNT, Kind
from cleanroom_pipelines.declarations.parties import PartyKind
from cleanroom_pipelines.errors import CleanroomError, ConflictError, UsageError

from ..cases import assert_each
from .conftest import BASE, Room, actions, worded

ALPHA, BETA = "111122223333", "012345678901"
SQL = "SELECT user_id FROM shop.buyers WHERE day > :day\n"
PARTIES: dict[str, Any] = {
    "accounts": [{"name": "alpha", "id": ALPHA, "organization": "Alpha Group"}, {"name": "beta"}],
    "collaborations": [
        {"name": "retail", "members": ["alpha", "beta", LOCAL_ACCOUNT], "seed": "removed", "period": "month"}
    ],
    "templates": [
        {"name": "buyers", "account": "beta", "sql": "buyers.sql", "collaboration": "retail"},
        {"name": "own buyers", "sql": "buyers.sql"},
    ],
    "buckets": [
        {"name": "seeds", "account": ALPHA},
        {"name": "exports", "url": "s3://real/prefix", "credentials_profile": "partner"},
    ],
}
NAMES = ["alpha", "beta", "retail", "buyers", "own buyers", "seeds", "exports"]
Edit = Callable[[str, Any], None]


def with_parties(room: Room) -> Room:
    """Declare parties beside the resources."""
    room.raw = {**copy.deepcopy(PARTIES), **copy.deepcopy(BASE)}
    return room


@pytest.fixture
def parties(room: Room) -> Room:
    (room.folder / "buyers.sql").write_text(SQL)
    return with_parties(room)


def state(room: Room) -> Any:
    catalog = room.catalog
    return (
        room.state(),
        catalog.parties.accounts(),
        catalog.parties.collaborations(),
        catalog.parties.templates(),
        catalog.parties.buckets(),
        [catalog.parties.access_keys(account.id) for account in catalog.parties.accounts()],
    )


def test_everything_is_created_parties_first(parties: Room) -> None:
    changes = parties.apply()
    assert actions(changes)[: len(NAMES)] == [("create", name) for name in NAMES]
    assert [change.kind for change in changes[: len(NAMES)]] == [
        *[PartyKind.ACCOUNT] * 2,
        PartyKind.COLLABORATION,
        *[PartyKind.TEMPLATE] * 2,
        *[PartyKind.BUCKET] * 2,
    ]
    catalog = parties.catalog
    accounts = {account.name: account for account in catalog.parties.accounts()}
    assert set(accounts) == {"alpha", "beta"}
    beta = accounts["beta"]
    assert accounts["alpha"].id == ALPHA
    (retail,) = catalog.parties.collaborations()
    assert [member.account_id for member in retail.members] == [ALPHA, beta.id, LOCAL_ACCOUNT]
    buyers, own = sorted(catalog.parties.templates(), key=lambda template: template.name)
    assert (buyers.account_id, buyers.sql, buyers.collaboration_id) == (beta.id, SQL, retail.id)
    assert (own.account_id, own.collaboration_id) == (LOCAL_ACCOUNT, None)
    exports, seeds = catalog.parties.buckets()
    assert (seeds.account_id, seeds.url) == (ALPHA, None)
    assert (exports.account_id, exports.url, exports.profile) == (LOCAL_ACCOUNT, "s3://real/prefix", "partner")
    made = [ALPHA, beta.id, retail.id, buyers.arn, own.arn, "seeds", "exports"]
    assert [change.id for change in changes[: len(NAMES)]] == made
    assert catalog.parties.access_keys(ALPHA) == ()


def test_applying_again_changes_nothing(parties: Room) -> None:
    first = parties.apply()
    before = state(parties)
    second = parties.apply()
    assert {action for action, _ in actions(second)} == {"keep"}
    assert [change.id for change in second] == [change.id for change in first]
    assert state(parties) == before


def test_dry_run_lists_the_same_changes_without_applying_them(parties: Room) -> None:
    before = state(parties)
    dry = parties.apply(dry_run=True)
    assert state(parties) == before
    assert actions(dry) == actions(parties.apply())
    assert {change.id for change in dry} <= {"", ALPHA}


def test_resources_belong_to_the_declared_account(new_room: Callable[[], Room]) -> None:
    def are_the_account_s(account: str) -> None:
        parties = with_parties(new_room())
        (parties.folder / "buyers.sql").write_text(SQL)
        parties.raw |= {"account": account, "region": "eu-west-1"}
        assert {action for action, _ in actions(parties.apply(dry_run=True))} == {"create"}
        parties.apply()
        owner = parties.catalog.parties.account_named(account)
        for kind in Kind:
            for record in parties.catalog.resources.iterate(kind):
                assert (record.account_id, record.region, record.declared) == (owner, "eu-west-1", True)
        assert parties.one(Kind.GENERATION_JOB).started_by == owner
        own = next(one for one in parties.catalog.parties.templates() if one.name == "own buyers")
        assert own.arn.startswith(f"arn:aws:cleanrooms:eu-west-1:{owner}:")
        before = state(parties)
        assert {action for action, _ in actions(parties.apply())} == {"keep"}
        assert state(parties) == before

    assert_each(are_the_account_s, ["alpha", ALPHA, "beta"])


def test_same_names_of_two_accounts_and_regions_are_independent(parties: Room, edit: Edit) -> None:
    parties.apply()
    for account, region in (("alpha", "us-east-1"), ("alpha", "eu-west-1")):
        edit("account", account)
        edit("region", region)
        parties.raw["buckets"] = []
        changes = [change for change in parties.apply() if isinstance(change.kind, Kind)]
        assert {change.action for change in changes} == {"create"}
    assert len(parties.catalog.resources.list(Kind.GENERATION_JOB).items) == 3


def test_accounts_created_by_a_command_are_used_unchanged(parties: Room) -> None:
    beta = parties.catalog.parties.create_account("beta", BETA)
    changes = parties.apply()
    assert actions(changes)[:2] == [("create", "alpha"), ("keep", "beta")]
    assert changes[1].id == beta.id


def test_organizations_and_terms_are_declared(parties: Room) -> None:
    parties.apply()
    catalog = parties.catalog
    beta = catalog.parties.account_named("beta")
    assert [catalog.pairs.organization_of_account(each) for each in (ALPHA, beta)] == ["alpha group", beta]
    (retail,) = catalog.parties.collaborations()
    assert (retail.seed_removed, retail.full_ensemble) == (True, False)
    assert catalog.pairs.ledger(catalog.pairs.pair("alpha group", beta).id).period == "month"
    assert catalog.pairs.period_of([ALPHA, beta, LOCAL_ACCOUNT]) == "month"


def test_period_approved_later_by_both_is_kept(parties: Room, edit: Edit) -> None:
    edit("collaborations.0.members", ["alpha", "beta"])
    edit("collaborations.0.period", "life")
    parties.apply()
    catalog = parties.catalog
    pair = catalog.pairs.pair("alpha group", catalog.parties.account_named("beta"))
    assert catalog.pairs.ledger(pair.id).period == ""
    with pytest.raises(ConflictError):
        edit("collaborations.0.period", "month")
        parties.apply()
    edit("collaborations.0.period", "life")
    proposed = catalog.pairs.propose(pair.id, "period", "alpha group")
    catalog.pairs.approve(proposed.id, pair.organizations[0 if pair.organizations[0] != "alpha group" else 1])
    assert ("keep", "retail") in actions(parties.apply())


def test_former_member_is_not_added_again(parties: Room) -> None:
    parties.apply()
    (retail,) = parties.catalog.parties.collaborations()
    left = parties.catalog.parties.set_membership(retail.id, ALPHA, False)
    assert actions(parties.apply())[2] == ("keep", "retail")
    assert parties.catalog.parties.collaborations() == (left,)


RELIED_ON = [
    ("accounts.0.id", BETA, ConflictError),
    ("accounts.1.id", ALPHA, ConflictError),
    ("accounts.0.organization", "another", ConflictError),
    ("accounts.1.organization", "another", ConflictError),
    ("collaborations.0.seed", "in-place", ConflictError),
    ("collaborations.0.privacy", "full", ConflictError),
    ("collaborations.0.members", ["alpha", "beta"], ConflictError),
    ("templates.0.collaboration", None, ConflictError),
    ("templates.0.sql", "other.sql", ConflictError),
    ("buckets.0.account", "beta", ConflictError),
    ("buckets.1.url", "s3://elsewhere", ConflictError),
    ("buckets.1.credentials_profile", "another", ConflictError),
]


def test_immutable_terms_cannot_change(parties: Room, edit: Edit) -> None:
    parties.apply()
    (parties.folder / "other.sql").write_text("SELECT canary")
    before = state(parties)

    def does_not_change(place: str, value: object, error: type[CleanroomError]) -> None:
        with_parties(parties)
        edit(place, value)
        edit("training_datasets.0.description", "not changed either")
        with pytest.raises(error) as caught:
            parties.apply()
        assert f"wrong at {worded(parties.raw, place.rsplit('.', 1)[0])}:" in str(caught.value)
        assert caught.value.remedy
        assert "canary" not in str(caught.value)
        assert state(parties) == before

    assert_each(does_not_change, RELIED_ON)


WRONG = [
    ("account", "gamma", "account"),
    ("account", "999999999999", "account"),
    ("region", "no region!", "region"),
    ("region", "here", "templates.0"),
    ("accounts.0.name", "999999999999", "accounts.0"),
    ("accounts.1.id", "12", "accounts.1"),
    ("collaborations.0.members", ["alpha"], "collaborations.0"),
    ("collaborations.0.members", ["beta", "beta"], "collaborations.0"),
    ("collaborations.0.members", ["alpha", ALPHA], "collaborations.0"),
    ("collaborations.0.members", ["alpha", "gamma"], "collaborations.0"),
    ("collaborations.0.members", ["alpha", LOCAL_ACCOUNT], "templates.0"),
    ("templates.0.sql", "nowhere.sql", "templates.0"),
    ("templates.0.sql", "empty.sql", "templates.0"),
    ("templates.0.collaboration", "wholesale", "templates.0"),
    ("templates.0.account", "gamma", "templates.0"),
    ("buckets.0.name", "UPPER", "buckets.0"),
    ("buckets.0.account", "gamma", "buckets.0"),
    ("buckets.1.url", "https://real", "buckets.1"),
    ("buckets.0.credentials_profile", "partner", "buckets.0"),
]


def test_invalid_declaration_changes_nothing(parties: Room, edit: Edit) -> None:
    (parties.folder / "empty.sql").write_text(" \n")
    before = state(parties)

    def changes_nothing(place: str, value: object, where: str) -> None:
        with_parties(parties)
        edit(place, value)
        with pytest.raises(UsageError, match=f"wrong at {re.escape(worded(parties.raw, where))}:") as caught:
            parties.apply()
        assert caught.value.remedy
        assert state(parties) == before

    assert_each(changes_nothing, WRONG)
