"""Contract: a policy is kept as it was written, and changed only where the conditions of the change hold."""

import hashlib

import pytest

from cleanroom_pipelines.catalog import LOCAL_ACCOUNT
from cleanroom_pipelines.errors import NotFoundError, UsageError

from .building import Builder

TEXT = '{"Version": "2012-10-17", "Statement": "ünïcode"}\n'
HASH = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture
def configured(builder: Builder) -> str:
    return builder.chain()[2].id


def test_a_policy_is_put_read_and_removed(builder: Builder, configured: str) -> None:
    catalog = builder.catalog
    assert catalog.policy_of(configured) is None
    assert catalog.put_policy(configured, LOCAL_ACCOUNT, TEXT) == HASH
    assert catalog.policy_of(configured, LOCAL_ACCOUNT) == (TEXT, HASH)
    assert catalog.put_policy(configured, LOCAL_ACCOUNT, TEXT) == HASH
    assert catalog.delete_policy(configured, LOCAL_ACCOUNT) is True
    assert catalog.policy_of(configured) is None
    assert catalog.delete_policy(configured, LOCAL_ACCOUNT) is False


@pytest.mark.parametrize("there_is", [False, True])
@pytest.mark.parametrize("must_exist", [None, False, True])
@pytest.mark.parametrize("given", [None, "right", "wrong"])
def test_conditions(
    builder: Builder, configured: str, there_is: bool, must_exist: bool | None, given: str | None
) -> None:
    catalog = builder.catalog
    if there_is:
        catalog.put_policy(configured, LOCAL_ACCOUNT, TEXT)
    before = catalog.policy_of(configured)
    previous = {None: None, "right": HASH, "wrong": "0" * 64}[given]
    holds = must_exist in (None, there_is) and (given is None or (given == "right" and there_is))
    if holds:
        catalog.put_policy(configured, LOCAL_ACCOUNT, "{}", previous_hash=previous, must_exist=must_exist)
        assert catalog.policy_of(configured) == ("{}", hashlib.sha256(b"{}").hexdigest())
        return
    with pytest.raises(UsageError) as caught:
        catalog.put_policy(configured, LOCAL_ACCOUNT, "{}", previous_hash=previous, must_exist=must_exist)
    assert caught.value.remedy
    assert catalog.policy_of(configured) == before


@pytest.mark.parametrize("text", ["", " \n", "x" * 20_481, "a\0b", "\udc00"])
def test_a_text_that_cannot_be_kept(builder: Builder, configured: str, text: str) -> None:
    with pytest.raises(UsageError):
        builder.catalog.put_policy(configured, LOCAL_ACCOUNT, text)
    assert builder.catalog.policy_of(configured) is None


def test_another_accounts_policy_is_not_there(builder: Builder, configured: str) -> None:
    catalog = builder.catalog
    catalog.put_policy(configured, LOCAL_ACCOUNT, TEXT)
    for account, region in (("111122223333", None), (LOCAL_ACCOUNT, "eu-west-1")):
        with pytest.raises(NotFoundError):
            catalog.put_policy(configured, account, "{}", region=region)
        with pytest.raises(NotFoundError):
            catalog.policy_of(configured, account, region)
        with pytest.raises(NotFoundError):
            catalog.delete_policy(configured, account, region)
    assert catalog.policy_of(configured) == (TEXT, HASH)
