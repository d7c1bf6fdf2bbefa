"""Phone numbers: the batch implementation compared with the library, one number at a time.

Contract: the patterns over arrays give the same results as `phonenumbers` itself, for the example numbers of every
region and type, for these with changed digits and with a national prefix, and for random digits after every
calling code; a number is the same id however it is written.
"""

import random

import phonenumbers
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.identity import IdProblem, judge_ids
from cleanroom_pipelines.terms import MatchingId

from ..offenders import offenders

TYPES = sorted(phonenumbers.PhoneNumberType.values())
CODES = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)


def by_library(number: str) -> str | None:
    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def at_once(numbers: list[str]) -> list[str | None]:
    return judge_ids(MatchingId.PHONE_NUMBER, pa.array(numbers, pa.string())).normal.to_pylist()


def example_numbers() -> list[str]:
    found = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        found += [phonenumbers.example_number_for_type(region, type_) for type_ in TYPES]
    found += [phonenumbers.example_number_for_non_geo_entity(code) for code in CODES]
    format_ = phonenumbers.PhoneNumberFormat.E164
    return [phonenumbers.format_number(number, format_) for number in found if number]


EXAMPLES = example_numbers()


def assert_same(numbers: list[str]) -> None:
    expected = [by_library(number) for number in numbers]
    found = at_once(numbers)
    differing = [(n, e, f) for n, e, f in zip(numbers, expected, found, strict=True) if e != f]
    assert not differing[:5]


def test_examples_of_every_region_and_type() -> None:
    assert len(EXAMPLES) > 1_000
    assert_same(EXAMPLES)
    assert at_once(EXAMPLES) == EXAMPLES


def test_examples_with_changed_digits() -> None:
    randomly = random.Random(3)

    def changed(number: str) -> str:
        digits = list(number)
        for _ in range(randomly.randint(1, 3)):
            digits[randomly.randrange(1, len(digits))] = randomly.choice("0123456789")
        return "".join(digits)[: randomly.choice([None, None, -1, -2])] + randomly.choice(["", "", "7", "00"])

    assert_same([changed(number) for number in EXAMPLES])


def test_examples_with_a_national_prefix() -> None:
    codes = [str(phonenumbers.parse(number, None).country_code) for number in EXAMPLES]

    def check(prefix: str) -> None:
        numbers = [
            f"+{code}{prefix}{number[1 + len(code) :]}" for code, number in zip(codes, EXAMPLES, strict=True)
        ]
        chosen = random.Random(prefix).sample(numbers, 250)
        assert_same(chosen)
        # Cutting a prefix off does not bring another one to light.
        normal = [number for number in at_once(chosen) if number]
        assert at_once(normal) == normal

    assert offenders(["0", "1", "8", "9", "15", "06", "180020", "0015", "003768"], check) == []


@given(st.lists(st.tuples(st.sampled_from(CODES), st.from_regex(r"[0-9]{1,17}", fullmatch=True)), min_size=1))
@example([(98, "9601"), (1, "2015550123"), (7, "7010000000"), (54, "91123456789"), (54, "111512345678")])
def test_random_digits_behind_every_calling_code(parts: list[tuple[int, str]]) -> None:
    assert_same([f"+{code}{digits}" for code, digits in parts])


@given(st.lists(st.from_regex(r"\+[1-9][0-9]{2,16}", fullmatch=True), min_size=1))
def test_random_digits(numbers: list[str]) -> None:
    assert_same(numbers)


def test_one_id_however_it_is_written() -> None:
    written = [
        "+41791234567",
        "41791234567",
        "0041791234567",
        "  +41 79 123 45 67\t",
        "+41 (0)79 123-45-67",
        "+41 (0) 79/123.45.67",
        "(+41) 79 123 45 67",
        "+41\u00a079\u2009123\u201145\u201367",
        "\uff0b\uff14\uff11 \uff17\uff19 123 45 67",
        "+\u0664\u0661 \u0667\u0669 123 45 67",
        "\u202a+41791234567\u202c",
    ]

    def check(text: str) -> None:
        judged = judge_ids(MatchingId.PHONE_NUMBER, pa.array([text]))
        assert judged.normal.to_pylist() == ["+41791234567"]
        assert judged.changed.tolist() == [text != "+41791234567"]

    assert offenders(written, check) == []


def test_a_decimal_never_becomes_another_number() -> None:
    decimals = pa.array(["41791234567.0", "4179123456.7", "4179123456.70", "41791234567.000"])
    assert not judge_ids(MatchingId.PHONE_NUMBER, decimals).valid.any()
    judged = judge_ids(MatchingId.PHONE_NUMBER, pa.array(["41.79.123.45.67", "+41.791234567"]))
    assert judged.normal.to_pylist() == ["+41791234567", "+41791234567"]


def test_what_is_not_a_number() -> None:
    no_numbers = [
        "079 123 45 67",
        "++41791234567",
        "+0041791234567",
        "00041791234567",
        "+41791234567 ext. 5",
        "+1 800 FLOWERS",
        "+41 79 123 45 6",
        "tel:+41791234567",
        "+999123456789",
        "+",
        "00",
        "4",
        "+" * 300,
        "1" * 300,
        "²41791234567",
    ]

    def check(text: str) -> None:
        judged = judge_ids(MatchingId.PHONE_NUMBER, pa.array([text, "+41791234567"]))
        assert judged.valid.tolist() == [False, True]
        assert {problem: rows.tolist() for problem, rows in judged.problems().items()} == {
            IdProblem.INVALID_PHONE_E164_NUMBER: [0]
        }

    assert offenders(no_numbers, check) == []
