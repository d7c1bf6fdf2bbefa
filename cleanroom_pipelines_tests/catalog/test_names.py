"""Contract: a name is valid if the AWS API accepts it, emoji included; no name has an effect on a path."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.catalog import Kind, make_arn, parse_arn, partition_key, slug
from cleanroom_pipelines.catalog.names import (
    check_account,
    check_description,
    check_name,
    check_tag_keys,
    check_tags,
)
from cleanroom_pipelines.errors import UsageError

from .building import accepted_of

KEY = re.compile("[a-z0-9-]{1,40}-[0-9a-f]{12}")


def twelve_hex(n_bytes: int) -> str:
    return "0af1" * (n_bytes // 2)


@given(st.text())
def test_any_text_gives_a_safe_partition_key(name: str) -> None:
    assert KEY.fullmatch(partition_key(name, twelve_hex))
    assert slug(name) == slug(slug(name))
    assert "--" not in slug(name)


def test_slugs() -> None:
    expected = {
        "Spring Buyers": "spring-buyers",
        "../../etc/passwd": "etc-passwd",
        "'; drop table resources; --": "drop-table-resources",
        "🙂": "x",
        "": "x",
        "a" * 39 + " b": "a" * 39,
        "Ünïcode": "n-code",
    }
    assert {name: slug(name) for name in expected} == expected


def test_valid_names_are_accepted() -> None:
    names = ["a", "x" * 63, "a/b", "..", 'it\'s "quoted"', "emoji 🙂", " padded ", "日本"]
    assert accepted_of(names, check_name) == names


def test_invalid_names_are_rejected() -> None:
    names = [
        "",
        " ",
        "\t",
        "x" * 64,
        "line\nend",
        "ends\n",
        "nul\0",
        "bell\a",
        "tab\there",
        "\ud800",
        "\uffff",
        "return\r",
    ]
    assert accepted_of(names, check_name) == []


def test_description_may_have_several_lines() -> None:
    check_description("two\r\nlines 🙂" + "x" * 200)
    check_description(None)
    check_description("")
    for refused in ("x" * 256, "nul\0"):
        with pytest.raises(UsageError):
            check_description(refused)


def test_tags_at_the_limits_are_accepted() -> None:
    check_tags({f"{n:03}" + "k" * 125: "v" * 256 for n in range(50)})
    check_tags({"key": ""})


def test_invalid_tags_are_rejected() -> None:
    wrong = [
        {str(n): "" for n in range(51)},
        {"": "v"},
        {"k" * 129: "v"},
        {"k": "v" * 257},
        {"aws:made": "v"},
        {"AWS:made": "v"},
        {"k\n": "v"},
        {"k": "\0"},
    ]
    assert accepted_of(wrong, check_tags) == []


def test_tag_keys_to_remove_are_validated() -> None:
    with pytest.raises(UsageError):
        check_tag_keys(["fine", "aWs:x"])


def test_arn_round_trip() -> None:
    key = partition_key("Spring", twelve_hex)
    for kind in list(Kind)[: list(Kind).index(Kind.EXPORT_JOB)]:
        parts = parse_arn(make_arn(kind, "123456789012", "eu-west-1", key) or "")
        assert parts is not None, kind
        assert (parts.kind, parts.account_id, parts.region, parts.id) == (kind, "123456789012", "eu-west-1", key)


def test_export_job_has_no_arn() -> None:
    assert make_arn(Kind.EXPORT_JOB, "123456789012", "eu-west-1", "x") is None


def test_foreign_arns_are_not_parsed() -> None:
    others = [
        "",
        "arn:aws:cleanrooms-ml:us-east-1:123456789012:trained-model/x",
        "arn:aws:cleanrooms-ml:us-east-1:123456789012:audience-model/../x",
        "arn:aws:cleanrooms-ml:us-east-1:1234:audience-model/x",
        "arn:aws:s3:us-east-1:123456789012:audience-model/x",
        "arn:aws:cleanrooms-ml:us-east-1:123456789012:audience-model/x\n",
    ]
    assert [arn for arn in others if parse_arn(arn) is not None] == []


def test_invalid_accounts_and_regions_are_rejected() -> None:
    wrong = [("1234", "us-east-1"), ("12345678901x", "us-east-1"), ("1" * 12, "US EAST")]
    assert accepted_of(wrong, lambda each: check_account(*each)) == []
