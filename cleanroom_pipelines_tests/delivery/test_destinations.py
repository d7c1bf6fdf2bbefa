"""Contract: each destination gets hashes by its own rule; ids that its rule does not allow are rejected in a
sentence that quotes no id. Given hashes are accepted only if the rule equals our normal form."""

import hashlib
import re
from itertools import product

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.delivery.destinations import (
    AdDestination,
    DestinationRuleError,
    destination_hashes,
    file_format,
    reason_not_served,
    require_served,
    serves,
)
from cleanroom_pipelines.delivery.writing import hash_ids
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.identity import judge_ids, sha256_hex
from cleanroom_pipelines.terms import MatchingId

from ..offenders import offenders

ADS = [AdDestination.GOOGLE, AdDestination.META, AdDestination.TIKTOK, AdDestination.LIVERAMP]
G, M, T, L = ADS
SERVED = {
    MatchingId.STRING: {AdDestination.PLAIN, L},
    MatchingId.EMAIL: {*AdDestination},
    MatchingId.HASHED_EMAIL: {AdDestination.PLAIN, M, T, L},
    MatchingId.PHONE_NUMBER: {AdDestination.PLAIN, G, M, T},
    MatchingId.HASHED_PHONE_NUMBER: {AdDestination.PLAIN, G, T},
}
LOCALS = st.text("ab.+1_-", min_size=1, max_size=10)
DOMAINS = st.sampled_from(["gmail.com", "googlemail.com", "GMAIL.com", "example.com", "gmail.com.example.org"])


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def hashed(destination: AdDestination, kind: MatchingId, *ids: str | None) -> list[str | None]:
    return destination_hashes(destination, kind, pa.array(ids, pa.string())).to_pylist()  # type: ignore[no-any-return]


def test_kinds_of_ids_that_each_destination_accepts() -> None:
    def check(destination: AdDestination, kind: MatchingId) -> None:
        assert serves(destination, kind) is (destination in SERVED[kind])
        reason = reason_not_served(destination, kind)
        if serves(destination, kind):
            assert reason is None
            require_served(destination, kind)
            return
        assert reason is not None
        assert reason.endswith(".")
        with pytest.raises(DestinationRuleError, match=re.escape(reason)) as caught:
            hashed(destination, kind, "anna@example.com")
        assert caught.value.remedy
        assert caught.value.attributes == {"destination": destination.value, "kind": kind.value}
        assert "anna" not in str(caught.value)

    assert offenders(product(AdDestination, MatchingId), check) == []


def test_emails() -> None:
    addresses = [
        # the example of the Data Manager API's page
        (G, " Cloudy.SanFrancisco+shopping@Gmail.com ", "cloudysanfrancisco@gmail.com"),
        (G, "user.name+NYC@Example.com", "user.name+nyc@example.com"),
        (G, "a.b+c+d@googlemail.com", "ab@googlemail.com"),
        (G, "a.b@notgmail.com", "a.b@notgmail.com"),
        (M, " User.Name+NYC@Gmail.com", "user.name+nyc@gmail.com"),
        (T, "JaneDoe@gmail.com ", "janedoe@gmail.com"),
        (T, "a.b+c@gmail.com", "a.b+c@gmail.com"),
        (L, "MyName@liveramp.com ", "myname@liveramp.com"),
        (L, "a.b+c@gmail.com", "a.b+c@gmail.com"),
    ]
    assert [each for each in addresses if hashed(each[0], MatchingId.EMAIL, each[1]) != [sha(each[2])]] == []


def test_tiktok_example_hash() -> None:
    told = "d6117306485ed0e50afab3ac871e98f81699151f30281527d63ff5f233656c69"
    assert hashed(T, MatchingId.EMAIL, "janedoe@gmail.com") == [told]


def test_phones() -> None:
    forms = {G: "+41791234567", M: "41791234567", T: "+41791234567"}
    given_ = ["+41 79 123 45 67", "0041 79 123 45 67", "41791234567", "+41 (0)79 123-45-67"]
    assert {where: hashed(where, MatchingId.PHONE_NUMBER, *given_) for where in forms} == {
        where: [sha(form)] * len(given_) for where, form in forms.items()
    }


def test_invalid_ids_have_no_hash() -> None:
    no_ids = [None, "", "  ", "anna", "anna@", "a b@example.com"]
    assert [where for where in ADS if hashed(where, MatchingId.EMAIL, *no_ids) != [None] * 6] == []
    assert [where for where in ADS if hashed(where, MatchingId.EMAIL) != []] == []


def test_some_gmail_addresses_become_empty() -> None:
    assert hashed(G, MatchingId.EMAIL, "+tag@gmail.com", "a@gmail.com") == [None, sha("a@gmail.com")]


def test_invalid_phone_numbers_have_no_hash() -> None:
    no_numbers = [None, "", "079 123 45 67", "+1", "anna"]
    assert [
        where for where in (G, M, T) if hashed(where, MatchingId.PHONE_NUMBER, *no_numbers) != [None] * 5
    ] == []


def test_uploaded_hashes_are_unchanged() -> None:
    hash_ = sha("anna@example.com")
    given_ = f" {hash_.upper()} ", "anna", None
    kinds = {M: "HASHED_EMAIL", T: "HASHED_EMAIL", L: "HASHED_EMAIL", G: "HASHED_PHONE_NUMBER"}
    found = {where: hashed(where, MatchingId(kind), *given_) for where, kind in kinds.items()}
    assert [where for where in kinds if found[where] != [hash_, None, None]] == []


def test_uploaded_hashes_fit_only_our_normal_form() -> None:
    examples = {
        MatchingId.EMAIL: ["a.b+c@gmail.com", "Anna@Example.com"],
        MatchingId.PHONE_NUMBER: ["+41 79 123 45 67", "+1 657 777 0000"],
    }

    def check(where: AdDestination, kind: MatchingId) -> None:
        ours = sha256_hex(judge_ids(kind, pa.array(examples[kind]))).to_pylist()
        assert serves(where, MatchingId(f"HASHED_{kind}")) is (ours == hashed(where, kind, *examples[kind]))

    assert offenders([(where, kind) for kind in examples for where in ADS if where in SERVED[kind]], check) == []


def google_oracle(email: str) -> str | None:
    """One address at a time, in plain words."""
    (normal,) = judge_ids(MatchingId.EMAIL, pa.array([email])).normal.to_pylist()
    if normal is None:
        return None
    local, _, domain = normal.partition("@")
    if domain in ("gmail.com", "googlemail.com"):
        local = local.split("+")[0].replace(".", "")
    return sha(f"{local}@{domain}") if local else None


@given(st.lists(st.tuples(LOCALS, DOMAINS), max_size=10))
def test_google_rule_matches_an_oracle(addresses: list[tuple[str, str]]) -> None:
    emails = [f"{local}@{domain}" for local, domain in addresses]
    assert hashed(G, MatchingId.EMAIL, *emails) == [google_oracle(email) for email in emails]


def test_users_keep_their_hashes() -> None:
    batch = hash_ids(
        M,
        MatchingId.EMAIL,
        pa.array(["u1", None, "u2", "u1", "u3"]),
        pa.array(["a@example.com", "b@example.com", "no", "c@example.com", None]),
    )
    assert batch.to_pylist() == [
        {"user_id": "u1", "kind": "EMAIL", "hash": sha("a@example.com")},
        {"user_id": "u1", "kind": "EMAIL", "hash": sha("c@example.com")},
    ]


def test_header() -> None:
    headers: list[tuple[str, list[str], tuple[str, ...] | None]] = [
        ("plain", [], None),
        ("google", ["EMAIL"], ("Email",)),
        ("google", ["PHONE_NUMBER", "EMAIL", "HASHED_PHONE_NUMBER"], ("Email", "Phone")),
        ("meta", ["HASHED_EMAIL", "PHONE_NUMBER"], ("email", "phone")),
        ("tiktok", ["PHONE_NUMBER"], ("Phone_SHA256",)),
        ("liveramp", ["EMAIL"], ("EMAIL1_SHA-256",)),
        ("liveramp", ["STRING"], ("CUSTOMID",)),
    ]
    assert [
        (where, kinds)
        for where, kinds, header in headers
        if file_format(AdDestination(where), [MatchingId(kind) for kind in kinds]).header != header
    ] == []


@pytest.mark.parametrize("kinds", [[], [MatchingId.STRING, MatchingId.EMAIL]])
def test_file_has_exactly_one_sort_of_ids(kinds: list[MatchingId]) -> None:
    with pytest.raises(UsageError):
        file_format(AdDestination.LIVERAMP, kinds)


def test_own_ids_are_not_hashed() -> None:
    for destination, kind in ((AdDestination.PLAIN, MatchingId.EMAIL), (L, MatchingId.STRING)):
        with pytest.raises(UsageError, match="as they are"):
            hashed(destination, kind, "anna")
