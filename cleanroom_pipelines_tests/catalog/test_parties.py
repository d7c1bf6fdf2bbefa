"""Contract: an account, a collaboration, a template and a bucket are created once, under an unused name, by and
for existing accounts; a key is rejected once it or its account is disabled."""

import pickle

import pytest

from cleanroom_pipelines.catalog import LOCAL_ACCOUNT, Account, AccountBucket, Catalog, Member
from cleanroom_pipelines.catalog.names import is_uuid
from cleanroom_pipelines.errors import ConflictError, NotFoundError, UsageError

from .building import SOME_DAY, Clock, accepted_of
from .dialects import on_both_dialects

ALPHA, BETA = "111122223333", "444455556666"
KEY_ID = "AKIA" + "ABCDEFGHIJKLMN27"


@pytest.fixture
def two(catalog: Catalog, clock: Clock) -> Catalog:
    """A catalogue with the accounts alpha and beta."""
    catalog.parties.create_account("alpha", ALPHA)
    clock.turn(1)
    catalog.parties.create_account("beta", BETA)
    clock.turn(1)
    return catalog


def test_accounts(two: Catalog) -> None:
    assert two.parties.account(ALPHA) == Account(ALPHA, "alpha", SOME_DAY, False)
    assert [account.name for account in two.parties.accounts()] == ["alpha", "beta"]
    made = two.parties.create_account("Körbe 🙂")
    assert len(made.id) == 12
    assert made.id.isdigit()
    assert made.id != LOCAL_ACCOUNT
    assert (
        two.parties.account_named("alpha"),
        two.parties.account_named(ALPHA),
        two.parties.account_named(made.name),
    ) == (
        ALPHA,
        ALPHA,
        made.id,
    )
    for unknown in ("gamma", "999999999999"):
        with pytest.raises(NotFoundError):
            two.parties.account_named(unknown)
        with pytest.raises(NotFoundError):
            two.parties.account(unknown)


@pytest.mark.parametrize(("name", "account_id", "reason"), [("alpha", None, "name"), ("gamma", ALPHA, "id")])
def test_taken_account_is_rejected(two: Catalog, name: str, account_id: str | None, reason: str) -> None:
    with pytest.raises(ConflictError) as caught:
        two.parties.create_account(name, account_id)
    assert caught.value.attributes == {"reason": reason, "existing_id": ALPHA}
    assert len(two.parties.accounts()) == 2


def test_invalid_account_is_rejected(catalog: Catalog) -> None:
    wrong = [
        ("", None),
        ("x" * 64, None),
        (" ", None),
        ("a\nb", None),
        ("111111111111", None),
        ("a", "1"),
        ("a", "x" * 12),
    ]
    assert accepted_of(wrong, lambda each: catalog.parties.create_account(*each)) == []
    assert catalog.parties.accounts() == ()


def test_operator_account_row_is_optional(catalog: Catalog) -> None:
    assert catalog.parties.account_named(LOCAL_ACCOUNT) == LOCAL_ACCOUNT
    catalog.parties.register_bucket("operators", LOCAL_ACCOUNT)
    with pytest.raises(NotFoundError):
        catalog.parties.add_access_key(LOCAL_ACCOUNT, KEY_ID, "sealed")
    catalog.parties.create_account("operator", LOCAL_ACCOUNT)
    catalog.parties.add_access_key(LOCAL_ACCOUNT, KEY_ID, "sealed")
    key = catalog.parties.access_key(KEY_ID)
    assert key is not None
    assert key.account_id == LOCAL_ACCOUNT


@on_both_dialects
def test_access_keys(two: Catalog) -> None:
    made = two.parties.add_access_key(ALPHA, KEY_ID, "sealed")
    assert made == two.parties.access_key(KEY_ID)
    assert (made.account_id, made.sealed_secret, made.disabled) == (ALPHA, "sealed", False)
    assert "sealed" not in repr(made)
    assert two.parties.access_key("AKIA" + "A" * 16) is None
    other = two.parties.add_access_key(ALPHA, "AKIA" + "B" * 16, "sealed")
    assert [key.id for key in two.parties.access_keys(ALPHA)] == sorted([KEY_ID, other.id])
    assert two.parties.access_keys(BETA) == ()
    for again in (ALPHA, BETA):
        with pytest.raises(ConflictError):
            two.parties.add_access_key(again, KEY_ID, "other")
    two.parties.disable_access_key(KEY_ID)
    two.parties.disable_access_key(KEY_ID)
    assert [key.disabled for key in two.parties.access_keys(ALPHA)] == [True, False]
    for wrong in ("AKIA" + "A" * 15, "AKIA" + "a" * 16, "AKIA" + "1" * 16, "ASIA" + "A" * 16):
        with pytest.raises(UsageError):
            two.parties.add_access_key(ALPHA, wrong, "sealed")
    with pytest.raises(NotFoundError):
        two.parties.disable_access_key("AKIA" + "C" * 16)
    with pytest.raises(NotFoundError):
        two.parties.access_keys("999999999999")


def test_disabled_account_disables_its_keys(two: Catalog) -> None:
    two.parties.add_access_key(ALPHA, KEY_ID, "sealed")
    assert two.parties.set_account_disabled(ALPHA, True).disabled
    assert two.parties.access_keys(ALPHA)[0].disabled
    key = two.parties.access_key(KEY_ID)
    assert key is not None
    assert key.disabled
    two.parties.set_account_disabled(ALPHA, False)
    assert two.parties.account(ALPHA).disabled is False
    assert two.parties.access_keys(ALPHA)[0].disabled is False
    with pytest.raises(NotFoundError):
        two.parties.set_account_disabled("999999999999", True)


@on_both_dialects
def test_collaborations(two: Catalog) -> None:
    made = two.parties.create_collaboration("retail", [BETA, ALPHA])
    assert is_uuid(made.id)
    assert made.members == (Member(BETA, True), Member(ALPHA, True))
    assert two.parties.collaboration(made.id) == made
    assert two.parties.collaboration("nowhere") is None
    assert two.parties.collaborations() == two.parties.collaborations(ALPHA) == (made,)
    assert two.parties.collaborations(LOCAL_ACCOUNT) == ()
    left = two.parties.set_membership(made.id, ALPHA, False)
    assert (left.has_active(ALPHA), left.has_active(BETA), left.has_active(LOCAL_ACCOUNT)) == (False, True, False)
    assert two.parties.collaboration(made.id) == left
    assert two.parties.collaborations(ALPHA) == (left,)
    assert two.parties.set_membership(made.id, ALPHA, True) == made
    for collaboration, account in ((made.id, LOCAL_ACCOUNT), ("nowhere", ALPHA)):
        with pytest.raises(NotFoundError):
            two.parties.set_membership(collaboration, account, False)
    with pytest.raises(ConflictError):
        two.parties.create_collaboration("retail", [ALPHA, BETA])


def test_invalid_members_are_rejected(two: Catalog) -> None:
    many = [two.parties.create_account(f"a{n}").id for n in range(11)]
    for members in ([], [ALPHA], [ALPHA, ALPHA], many):
        with pytest.raises(UsageError):
            two.parties.create_collaboration("retail", members)
    with pytest.raises(NotFoundError):
        two.parties.create_collaboration("retail", [ALPHA, "999999999999"])
    assert two.parties.collaborations() == ()
    assert len(two.parties.create_collaboration("ten", many[:10]).members) == 10
    two.parties.create_collaboration("with the operator", [ALPHA, LOCAL_ACCOUNT])


@on_both_dialects
def test_templates(two: Catalog) -> None:
    made = two.parties.add_template("buyers", ALPHA, "SELECT user_id\nFROM shop.buyers")
    parts = made.arn.split(":")
    assert parts[:5] == ["arn", "aws", "cleanrooms", "us-east-1", ALPHA]
    _, membership, kind, template = parts[5].split("/")
    assert kind == "analysistemplate"
    assert is_uuid(membership)
    assert is_uuid(template)
    assert two.parties.template(made.arn) == made
    assert "shop" not in repr(made)
    assert two.parties.template("nowhere") is None
    elsewhere = two.parties.add_template("buyers", ALPHA, "SELECT 1", region="eu-west-1")
    assert ":eu-west-1:" in elsewhere.arn
    theirs = two.parties.add_template("buyers", BETA, "SELECT 1")
    assert set(two.parties.templates(ALPHA)) == {made, elsewhere}
    assert set(two.parties.templates()) == {made, elsewhere, theirs}
    with pytest.raises(ConflictError) as caught:
        two.parties.add_template("buyers", ALPHA, "SELECT secret")
    assert "secret" not in str(caught.value)
    for wrong in ("", "  ", "x" * 500_001, "SELECT '\0'", "SELECT '\ud800'"):
        with pytest.raises(UsageError):
            two.parties.add_template("other", ALPHA, wrong)
    with pytest.raises(UsageError, match="region"):
        two.parties.add_template("other", ALPHA, "SELECT 1", region="here")
    with pytest.raises(NotFoundError):
        two.parties.add_template("other", "999999999999", "SELECT 1")


def test_collaboration_template_needs_an_active_member(two: Catalog) -> None:
    collaboration = two.parties.create_collaboration("retail", [BETA, ALPHA])
    made = two.parties.add_template("buyers", ALPHA, "SELECT 1", collaboration.id)
    assert made.collaboration_id == collaboration.id
    two.parties.set_membership(collaboration.id, ALPHA, False)
    for account, where in ((ALPHA, collaboration.id), (LOCAL_ACCOUNT, collaboration.id), (BETA, "nowhere")):
        with pytest.raises(NotFoundError):
            two.parties.add_template("other", account, "SELECT 1", where)


def test_buckets(two: Catalog, clock: Clock) -> None:
    local = two.parties.register_bucket("seeds.alpha-1", ALPHA)
    assert local == AccountBucket("seeds.alpha-1", ALPHA, created_at=clock.now)
    real = two.parties.register_bucket("exports", BETA, "s3://real-bucket/a b/c", "partner")
    assert two.parties.bucket("exports") == real
    assert (real.url, real.profile) == ("s3://real-bucket/a b/c", "partner")
    assert two.parties.bucket("nobody") is None
    assert two.parties.buckets() == (real, local)
    assert two.parties.buckets(ALPHA) == (local,)
    for account in (ALPHA, BETA):
        with pytest.raises(ConflictError):
            two.parties.register_bucket("exports", account)
    with pytest.raises(NotFoundError):
        two.parties.register_bucket("other", "999999999999")
    assert pickle.loads(pickle.dumps(real)) == real


def test_bucket_names_that_s3_rejects(two: Catalog) -> None:
    names = ["", "ab", "x" * 64, "Upper", "under_score", "-a-", "a..b", "192.168.5.4", "xn--abc", "abc-s3alias"]
    names += ["a/b", "ä" * 5]
    assert accepted_of(names, lambda name: two.parties.register_bucket(name, ALPHA)) == []
    assert accepted_of(names, lambda name: two.parties.register_bucket("fine", ALPHA, f"s3://{name}")) == []
    assert two.parties.buckets() == ()


def test_invalid_bucket_urls_are_rejected(two: Catalog) -> None:
    urls = [
        "",
        "file:///etc",
        "s3:/bucket",
        "s3://bucket/../x",
        "s3://bucket//x",
        "s3://bucket/a\nb",
        "S3://bucket",
    ]
    urls += ["bucket"]
    assert accepted_of(urls, lambda url: two.parties.register_bucket("fine", ALPHA, url)) == []
    assert two.parties.buckets() == ()


def test_real_bucket_needs_url_and_profile(two: Catalog) -> None:
    with pytest.raises(UsageError, match="profile"):
        two.parties.register_bucket("fine", ALPHA, profile="partner")
    with pytest.raises(UsageError, match="profile"):
        two.parties.register_bucket("fine", ALPHA, "s3://bucket/")
    two.parties.register_bucket("fine", ALPHA, "s3://bucket/", "partner")
