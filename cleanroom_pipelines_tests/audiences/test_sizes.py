"""Contract: sizes are written `5%` or `5000`, cut by the floor rule, and equal if they mean the same."""

import json
import pickle
from dataclasses import asdict

import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize, SizeType, check_sizes, parse_sizes
from cleanroom_pipelines.errors import UsageError

from ..offenders import offenders


def test_sizes_are_parsed() -> None:
    sizes = {
        "5%": AudienceSize(SizeType.PERCENTAGE, 5),
        " 100% ": AudienceSize(SizeType.PERCENTAGE, 100),
        "5.0%": AudienceSize(SizeType.PERCENTAGE, 5),
        "0.5%": AudienceSize(SizeType.PERCENTAGE, 0.5),
        "5000": AudienceSize(SizeType.ABSOLUTE, 5_000),
    }

    def check(text: str, size: AudienceSize) -> None:
        assert AudienceSize.parse(text) == size
        assert AudienceSize.parse(str(size)) == size
        assert pickle.loads(pickle.dumps(size)) == size

    assert offenders(sizes.items(), check) == []


def test_invalid_sizes_are_rejected() -> None:
    texts = [
        "",
        "%",
        "0",
        "0%",
        "0.0%",
        "101%",
        "100.5%",
        "-5",
        "-5%",
        "5 %%",
        "1.5",
        "1e1%",
        "1_0",
        "\u00b2",
        "\u0663%",
        "five",
        "nan%",
        "inf%",
        "9" * 400,
        "9" * 400 + "%",
    ]

    def check(text: str) -> None:
        with pytest.raises(UsageError):
            AudienceSize.parse(text)

    assert offenders(texts, check) == []


def test_invalid_lists_are_rejected() -> None:
    def check(text: str) -> None:
        with pytest.raises(UsageError):
            parse_sizes(text)

    assert offenders(["", "1%,1%", "5%,5.0%", "5%,0%"], check) == []


def test_at_most_25_sizes() -> None:
    assert len(parse_sizes(",".join(str(n) for n in range(1, 26)))) == 25
    with pytest.raises(UsageError):
        parse_sizes(",".join(str(n) for n in range(1, 27)))
    with pytest.raises(UsageError):
        check_sizes(())


def test_a_percentage_is_rounded_down_and_at_least_one() -> None:
    expected = {
        ("5%", 1_000): 50,
        ("1%", 50): 1,
        ("0.07%", 10_000): 7,
        ("33%", 10): 3,
        ("100%", 7): 7,
        ("5000", 10): 5_000,
    }
    assert {each: AudienceSize.parse(each[0]).n_users(each[1]) for each in expected} == expected


def test_a_whole_size_is_written_as_a_whole_number() -> None:
    # Digests of specs are made of this.
    written = [json.dumps(asdict(AudienceSize.parse(text))) for text in ("5%", "5.0%")]
    assert written == ['{"type": "PERCENTAGE", "value": 5}'] * 2
