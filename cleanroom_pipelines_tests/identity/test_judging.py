"""Which matching ids are valid, and their normal form.

Contract: STRING is unchanged; EMAIL is trimmed, lower-cased, in NFC, with its domain in ASCII, and checked against
a plain syntax. Invisible characters and the two forms of an internationalised domain do not make two people.
Placeholders are invalid as every kind; hashes are 64 hex digits in lower case. The fast path for ASCII gives the
same result as Python for every text; a normal form is its own normal form; order and batches change nothing.
"""

import contextlib
import hashlib
import re
import unicodedata

import idna
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.identity import PLACEHOLDERS, IdProblem, JudgedIds, judge_ids, sha256_hex
from cleanroom_pipelines.terms import Family, MatchingId

from ..offenders import offenders

texts = st.text(
    st.one_of(
        st.sampled_from(list("aAzZ09@..--_+ \t\n\"(),:;<>[]\\'\x1c\x7f\x00")),
        st.sampled_from(list("éÉßİ\u0131Σς\u212a\u0301\u00a0\u2003\u200b\ufeffﬁ😀अि")),
    ),
    max_size=12,
)
emails = st.builds(
    "{}@{}.{}".format, texts, texts, st.sampled_from(["ch", "c", "12", "c1", "COM", "ü", "-a", "a-"])
)


def judge(kind: MatchingId, *ids: str | None) -> JudgedIds:
    return judge_ids(kind, pa.array(ids, pa.string()))


def email_by_hand(text: str) -> str | None:
    text = re.sub("[\u00a0\u00ad\u200b\u200c\u200d\u2060\ufeff]", "", text).strip()
    if text.lower() in PLACEHOLDERS:
        return None
    text = unicodedata.normalize("NFC", text.lower())
    local, at, domain = text.rpartition("@")
    with contextlib.suppress(idna.IDNAError, UnicodeError):
        domain = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
    text = local + at + domain
    local, at, domain = text.partition("@")
    forbidden = re.compile(r'[\s\x00-\x20\x7f"(),:;<>@\[\\\]]')
    labels = domain.split(".")
    fine = (
        at
        and len(text) <= 254
        and 1 <= len(local) <= 64
        and not forbidden.search(local)
        and all(local.split("."))
        and len(labels) >= 2
        and all(1 <= len(label) <= 63 for label in labels)
        and not any(label.startswith("-") or label.endswith("-") for label in labels)
        and not re.search(r"[\s\x00-\x2c\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]", domain)
        and len(labels[-1]) >= 2
        and not re.fullmatch("[0-9]+", labels[-1])
    )
    return text if fine else None


@given(st.lists(st.one_of(texts, emails), min_size=1, max_size=8))
def test_emails_against_plain_python(ids: list[str]) -> None:
    assert judge(MatchingId.EMAIL, *ids).normal.to_pylist() == [email_by_hand(text) for text in ids]


@given(st.lists(st.one_of(st.none(), texts), min_size=1, max_size=8))
def test_strings_against_plain_python(ids: list[str | None]) -> None:
    judged = judge(MatchingId.STRING, *ids)
    by_hand = [unicodedata.normalize("NFC", (text or "").strip()) or None for text in ids]
    assert judged.normal.to_pylist() == by_hand
    assert judged.changed.tolist() == [
        normal is not None and normal != text for normal, text in zip(by_hand, ids, strict=True)
    ]
    assert judged.valid.tolist() == [normal is not None for normal in by_hand]
    assert judged.empty.tolist() == [not (text or "").strip() for text in ids]


@given(st.sampled_from(MatchingId), st.lists(st.one_of(texts, emails), min_size=1, max_size=8))
def test_a_normal_form_is_its_own(kind: MatchingId, ids: list[str]) -> None:
    normal = [text for text in judge(kind, *ids).normal.to_pylist() if text is not None]
    again = judge(kind, *normal)
    assert again.normal.to_pylist() == normal
    assert not again.changed.any()


@given(st.sampled_from(MatchingId), st.lists(st.one_of(st.none(), texts, emails), min_size=2, max_size=8))
def test_an_id_is_judged_alone(kind: MatchingId, ids: list[str | None]) -> None:
    together = judge(kind, *ids)
    assert together.normal.to_pylist() == [judge(kind, text).normal[0].as_py() for text in ids]


def test_emails() -> None:
    normal_forms = {
        " Anna.Muster+News@Example.COM\n": "anna.muster+news@example.com",
        "E\u0301va@Zu\u0308rich.ch": "éva@xn--zrich-kva.ch",
        "a@😀.ch": "a@😀.ch",
        "o'neil@mail.co.uk": "o'neil@mail.co.uk",
        "a@b.c1": "a@b.c1",
        f"{'a' * 64}@b.ch": f"{'a' * 64}@b.ch",
        f"{'a' * 65}@b.ch": None,
        f"a@{'b.' * 125}ch": f"a@{'b.' * 125}ch",
        f"a@{'b.' * 126}ch": None,
        "a@b": None,
        "a@b.c": None,
        "a@127.0.0.1": None,
        "a..b@c.ch": None,
        ".a@c.ch": None,
        "a@@c.ch": None,
        "a b@c.ch": None,
        "<a@c.ch>": None,
        "a@-c.ch": None,
        "a@c_d.ch": None,
        "a@c.ch,b@c.ch": None,
    }

    def check(given_: str, normal: str | None) -> None:
        judged = judge(MatchingId.EMAIL, given_)
        assert judged.normal.to_pylist() == [normal]
        assert list(judged.problems()) == ([] if normal else [IdProblem.INVALID_EMAIL_FORMAT])

    assert offenders(normal_forms.items(), check) == []


@pytest.mark.parametrize("kind", [MatchingId.HASHED_EMAIL, MatchingId.HASHED_PHONE_NUMBER])
def test_hashes(kind: MatchingId) -> None:
    fine = "0123456789abcdefABCDEF" + "0" * 42
    judged = judge(kind, fine, f" {fine.lower()}", fine[1:], fine + "0", "g" + fine[1:], "", None, "é" + fine[1:])
    assert judged.normal.to_pylist() == [fine.lower(), fine.lower(), *[None] * 6]
    assert {problem: rows.tolist() for problem, rows in judged.problems().items()} == {
        IdProblem.EMPTY_CELL: [5, 6],
        IdProblem.INVALID_SHA256_HEX_FORMAT: [2, 3, 4, 7],
    }
    assert judged.changed.tolist() == [True, True, *[False] * 6]


def test_nothing_gives_nothing() -> None:
    def check(kind: MatchingId) -> None:
        judged = judge(kind)
        assert len(judged.normal) == 0
        assert not judged.problems()
        assert judge(kind, "", None, " \t").valid.tolist() == [False] * 3
        assert list(judge(kind, "", None, " \t").problems()) == [IdProblem.EMPTY_CELL]

    assert offenders(MatchingId, check) == []


def test_what_can_match_what() -> None:
    assert MatchingId.EMAIL.family == MatchingId.HASHED_EMAIL.family == Family.EMAIL
    assert MatchingId.PHONE_NUMBER.family == MatchingId.HASHED_PHONE_NUMBER.family == Family.PHONE
    assert MatchingId.STRING.family == Family.STRING
    assert [kind for kind in MatchingId if kind.is_hashed] == [
        MatchingId.HASHED_EMAIL,
        MatchingId.HASHED_PHONE_NUMBER,
    ]


INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00a0\u00ad"
EMPTY_HASH = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("character", INVISIBLE, ids=lambda character: f"U+{ord(character):04X}")
def test_invisible_characters_do_not_make_another_person(character: str) -> None:
    plain = {
        MatchingId.EMAIL: "anna@example.ch",
        MatchingId.PHONE_NUMBER: "+41791234567",
        MatchingId.HASHED_EMAIL: hashlib.sha256(b"anna@example.ch").hexdigest(),
    }

    def check(kind: MatchingId, text: str) -> None:
        forms = [text, character + text, text + character, f" {character} {text}", text[:3] + character + text[3:]]
        judged = judge(kind, *forms)
        assert set(sha256_hex(judged).to_pylist()) == set(sha256_hex(judge(kind, text)).to_pylist())
        assert judged.changed.tolist() == [False, True, True, True, True]
        assert list(judge(kind, character).problems()) == [IdProblem.EMPTY_CELL]

    assert offenders(plain.items(), check) == []


def test_a_domain_and_its_ascii_form_are_one() -> None:
    forms = ["a@zürich.ch", "a@ZU\u0308RICH.CH", "A@xn--zrich-kva.ch", "a@XN--ZRICH-KVA.ch", "a@zürich\u3002ch"]
    assert set(judge(MatchingId.EMAIL, *forms).normal.to_pylist()) == {"a@xn--zrich-kva.ch"}
    assert judge(MatchingId.EMAIL, "a@straße.de", "a@strasse.de").normal.to_pylist() == [
        "a@xn--strae-oqa.de",
        "a@strasse.de",
    ]


def test_hashes_of_what_was_right_before_are_the_same() -> None:
    known = {
        (MatchingId.EMAIL, "Anna.Muster+News@Example.COM"): "anna.muster+news@example.com",
        (MatchingId.EMAIL, "é@x.ch"): "é@x.ch",
        (MatchingId.PHONE_NUMBER, "0041 79 123 45 67"): "+41791234567",
        (MatchingId.STRING, " Null-and-void "): "Null-and-void",
    }
    for (kind, text), normal in known.items():
        assert sha256_hex(judge(kind, text)).to_pylist() == [hashlib.sha256(normal.encode()).hexdigest()]


def test_placeholders_are_invalid_as_every_kind() -> None:
    words = ["NULL", "null", "nan", "NaN", "N/A", "n/a", "None", "#N/A", "<NA>", " null "]
    zeros = ["00000000-0000-0000-0000-000000000000", "0" * 32]
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in ("", "null", "nan", "none", "n/a")]
    given_ = [*words, *zeros, *hashes, EMPTY_HASH.upper(), f" {EMPTY_HASH}"]

    def check(kind: MatchingId) -> None:
        judged = judge(kind, *given_)
        assert {problem: len(rows) for problem, rows in judged.problems().items()} == {
            IdProblem.PLACEHOLDER: len(given_)
        }
        assert sha256_hex(judged).null_count == len(given_)

    assert offenders(MatchingId, check) == []
