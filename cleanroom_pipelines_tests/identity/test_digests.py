"""How ids are hashed.

Contract: EMAIL, PHONE_NUMBER and STRING by SHA-256 of their normal form, hashed kinds by the hash that was
given; a room's digest is HMAC-SHA256(room key, "<family>:<hex>"), so that a hashed seed matches a raw base and
no digest of one room, or of one family, is one of another. Invalid ids have none. No error tells an id.
"""

import hashlib
import hmac
import traceback
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import EngineError, UsageError
from cleanroom_pipelines.identity import judge_ids, room_digests, sha256_hex
from cleanroom_pipelines.terms import Family, MatchingId

KEY = b"0123456789abcdef"
RAW = {
    MatchingId.STRING: (" id-1 ", "id-1"),
    MatchingId.EMAIL: (" Anna@Example.com", "anna@example.com"),
    MatchingId.PHONE_NUMBER: ("0041 79 123 45 67", "+41791234567"),
}


@pytest.mark.parametrize("kind", list(RAW))
def test_hash_of_the_normal_form(kind: MatchingId) -> None:
    given_, normal = RAW[kind]
    expected = hashlib.sha256(normal.encode()).hexdigest()
    assert sha256_hex(judge_ids(kind, pa.array([given_, None]))).to_pylist() == [expected, None]


@pytest.mark.parametrize(
    ("raw", "hashed"),
    [
        (MatchingId.EMAIL, MatchingId.HASHED_EMAIL),
        (MatchingId.PHONE_NUMBER, MatchingId.HASHED_PHONE_NUMBER),
    ],
)
def test_a_hashed_seed_matches_a_raw_base(raw: MatchingId, hashed: MatchingId) -> None:
    given_, normal = RAW[raw]
    theirs = hashlib.sha256(normal.encode()).hexdigest().upper()
    base = room_digests(KEY, raw.family, sha256_hex(judge_ids(raw, pa.array([given_]))))
    seed = room_digests(KEY, hashed.family, sha256_hex(judge_ids(hashed, pa.array([theirs]))))
    assert base.to_pylist() == seed.to_pylist()


@given(st.binary(min_size=16, max_size=200), st.sampled_from(Family), st.lists(st.text(max_size=70)))
def test_digests_are_hmac(key: bytes, family: Family, hashes: list[str]) -> None:
    expected = [hmac.new(key, f"{family}:{text}".encode(), "sha256").hexdigest() for text in hashes]
    assert room_digests(key, family, pa.array(hashes, pa.string())).to_pylist() == expected


def test_rooms_and_families_have_their_own_digests() -> None:
    hashes = pa.array(["0" * 64])
    digests = [room_digests(key, family, hashes)[0].as_py() for key in (KEY, KEY[::-1]) for family in Family]
    assert len(set(digests)) == 6


def test_a_short_key_is_rejected() -> None:
    with pytest.raises(UsageError):
        room_digests(b"short", Family.EMAIL, pa.array(["0" * 64]))


def test_errors_quote_no_id() -> None:
    canary = "kanarienvogel"
    with (
        mock.patch.object(pc, "utf8_trim", side_effect=pa.ArrowInvalid(f"cannot parse {canary}")),
        pytest.raises(EngineError) as caught,
    ):
        judge_ids(MatchingId.EMAIL, pa.array([canary]))
    told: BaseException | None = caught.value
    while told is not None:
        assert canary not in "".join(traceback.format_exception_only(told)) + repr(vars(told))
        told = told.__cause__ or told.__context__


def test_ids_that_are_not_utf8() -> None:
    broken = pa.array([b"kanarienvogel\xff"], pa.binary()).view(pa.string())
    for kind in MatchingId:
        with pytest.raises(EngineError) as caught:
            judge_ids(kind, broken)
        assert "kanarienvogel" not in repr(caught.value)
        assert caught.value.__context__ is None
