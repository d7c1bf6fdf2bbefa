"""Contract: a policy is stored as it was written, and changed only if the conditions of the change hold."""

import hashlib
from itertools import product

import pytest

from cleanroom_pipelines.catalog import LOCAL_ACCOUNT, Catalog, ConfiguredAudienceModel
from cleanroom_pipelines.errors import NotFoundError, UsageError

from .building import Builder, accepted_of
from .dialects import on_both_dialects

TEXT = '{"Version": "2012-10-17", "Statement": "ünïcode"}\n'
HASH = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture
def configured(builder: Builder) -> str:
    return builder.chain()[2].id


def policy_of(catalog: Catalog, configured_id: str) -> tuple[str | None, str | None]:
    record = catalog.get(ConfiguredAudienceModel, configured_id)
    return record.policy, record.policy_hash


@on_both_dialects
def test_policy_is_put_read_and_removed(builder: Builder, configured: str) -> None:
    catalog = builder.catalog
    assert policy_of(catalog, configured) == (None, None)
    assert catalog.parties.put_policy(configured, LOCAL_ACCOUNT, TEXT) == HASH
    assert policy_of(catalog, configured) == (TEXT, HASH)
    assert catalog.parties.put_policy(configured, LOCAL_ACCOUNT, TEXT) == HASH
    assert catalog.parties.delete_policy(configured, LOCAL_ACCOUNT) is True
    assert policy_of(catalog, configured) == (None, None)
    assert catalog.parties.delete_policy(configured, LOCAL_ACCOUNT) is False


@on_both_dialects
def test_put_conditions(builder: Builder, configured: str) -> None:
    catalog = builder.catalog
    for case in product((False, True), (None, False, True), (None, "right", "wrong")):
        there_is, must_exist, given = case
        catalog.parties.delete_policy(configured, LOCAL_ACCOUNT)
        if there_is:
            catalog.parties.put_policy(configured, LOCAL_ACCOUNT, TEXT)
        before = policy_of(catalog, configured)
        previous = {None: None, "right": HASH, "wrong": "0" * 64}[given]
        holds = must_exist in (None, there_is) and (given is None or (given == "right" and there_is))
        if holds:
            catalog.parties.put_policy(
                configured, LOCAL_ACCOUNT, "{}", previous_hash=previous, must_exist=must_exist
            )
            assert policy_of(catalog, configured) == ("{}", hashlib.sha256(b"{}").hexdigest()), case
            continue
        with pytest.raises(UsageError) as caught:
            catalog.parties.put_policy(
                configured, LOCAL_ACCOUNT, "{}", previous_hash=previous, must_exist=must_exist
            )
        assert caught.value.remedy, case
        assert policy_of(catalog, configured) == before, case


def test_unstorable_text_is_rejected(builder: Builder, configured: str) -> None:
    texts = ["", " \n", "x" * 20_481, "a\0b", "\udc00"]
    assert (
        accepted_of(texts, lambda text: builder.catalog.parties.put_policy(configured, LOCAL_ACCOUNT, text)) == []
    )
    assert policy_of(builder.catalog, configured) == (None, None)


def test_policy_of_another_account_is_not_found(builder: Builder, configured: str) -> None:
    catalog = builder.catalog
    catalog.parties.put_policy(configured, LOCAL_ACCOUNT, TEXT)
    for account, region in (("111122223333", None), (LOCAL_ACCOUNT, "eu-west-1")):
        with pytest.raises(NotFoundError):
            catalog.parties.put_policy(configured, account, "{}", region=region)
        with pytest.raises(NotFoundError):
            catalog.get(ConfiguredAudienceModel, configured, account, region)
        with pytest.raises(NotFoundError):
            catalog.parties.delete_policy(configured, account, region)
    assert policy_of(catalog, configured) == (TEXT, HASH)
