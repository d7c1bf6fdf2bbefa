"""Contract: a passkey belongs to one user, each of its counters starts one session; a challenge is used once."""

from dataclasses import replace
from datetime import timedelta

import pytest

from cleanroom_pipelines.catalog import Catalog, NewPasskey
from cleanroom_pipelines.errors import ConflictError, NotFoundError

from .building import Clock, Numbered
from .dialects import on_both_dialects

ANA, BEN = "ana@publisher.example", "ben@advertiser.example"
PHONE = NewPasskey("phone", "credential", b"public key", 0)


@on_both_dialects
def test_a_passkey_belongs_to_one_user_and_a_counter_to_one_session(empty_url: str, clock: Clock) -> None:
    catalog = Catalog(empty_url, clock=clock, token_hex=Numbered())
    sign_in = catalog.sign_in
    for email in (ANA, BEN):
        catalog.users.create_user(email)
    phone = sign_in.add_passkey(ANA, PHONE)
    assert sign_in.passkeys(ANA) == (phone,) == (sign_in.passkey_with("credential"),)
    with pytest.raises(ConflictError):
        sign_in.add_passkey(BEN, PHONE)
    with pytest.raises(NotFoundError):
        sign_in.remove_passkey(BEN, phone.id)
    assert [sign_in.start_session_by(phone, 1, digest * 64) for digest in "ab"] == [True, False]
    assert [sign_in.session(digest * 64) is not None for digest in "ab"] == [True, False]
    sign_in.add_passkey(ANA, replace(PHONE, credential_id="another"))
    sign_in.remove_passkey(ANA, phone.id)
    assert sign_in.session("a" * 64) is None
    assert not sign_in.start_session_by(replace(phone, sign_count=1), 2, "c" * 64), "removed meanwhile"
    for n in range(19):
        sign_in.add_passkey(ANA, replace(PHONE, credential_id=f"more {n}"))
    with pytest.raises(ConflictError):
        sign_in.add_passkey(ANA, replace(PHONE, credential_id="one too many"))
    catalog.database.close()


@on_both_dialects
def test_a_challenge_is_used_once_before_it_expires(empty_url: str, clock: Clock) -> None:
    catalog = Catalog(empty_url, clock=clock, token_hex=Numbered())
    for digest in "ab":
        catalog.sign_in.add_challenge(digest * 64, clock() + timedelta(minutes=5))
    assert [catalog.sign_in.use_challenge(digest * 64) for digest in "aac"] == [True, False, False]
    clock.now += timedelta(minutes=5)
    assert not catalog.sign_in.use_challenge("b" * 64)
    catalog.database.close()
