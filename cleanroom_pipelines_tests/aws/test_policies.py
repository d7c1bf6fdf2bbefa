"""Contract: a resource policy is evaluated as in AWS, with accounts as principals: Deny overrides Allow, and a
request that no statement covers is denied; a document that cannot be evaluated exactly is rejected when parsed,
with the element's name and no quotes; no document makes parsing or evaluation slow.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.aws.answers import ApiError
from cleanroom_pipelines.aws.policies import (
    Decision,
    allows,
    context_of,
    decide,
    matches_wildcards,
    may_start,
    read_policy,
)

from ..cases import assert_each
from ..efforts import effort

A, B, C = "111122223333", "444455556666", "777788889999"
MODEL = f"arn:aws:cleanrooms-ml:us-east-1:{B}:configured-audience-model/shop-0123456789ab"
JOB = f"arn:aws:cleanrooms-ml:us-east-1:{B}:audience-generation-job/summer-0123456789ab"
START = "cleanrooms-ml:StartAudienceGenerationJob"
ROOM = "7f3b1c9e-0000-4000-8000-0123456789ab"
KEY = "cleanrooms-ml:CollaborationId"
SECURE = "aws:SecureTransport"

ALLOW: dict[str, Any] = {"Effect": "Allow", "Principal": {"AWS": A}, "Action": START, "Resource": MODEL}


def document(*statements: Mapping[str, Any], **elements: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements), **elements})


def decided(text: str, *, caller: str = A, action: str = START, resource: str = MODEL, **context: Any) -> Decision:
    policy = read_policy(text, MODEL)
    found = decide(
        policy, caller_account=caller, action=action, resource_arn=resource, context=context_of(**context)
    )
    assert found is not Decision.ALLOWED or allows(
        policy, caller_account=caller, action=action, resource_arn=resource, context=context_of(**context)
    )
    return found


def with_(**elements: Any) -> dict[str, Any]:
    return {**ALLOW, **elements}


def under(operator: str, key: str, value: Any, **elements: Any) -> dict[str, Any]:
    return with_(Condition={operator: {key: value}}, **elements)


# ---------------------------------------------------------------- what a statement says

YES, NO, NOTHING = Decision.ALLOWED, Decision.DENIED, Decision.NOT_MENTIONED
DENY = {"Effect": "Deny"}


def test_the_example_of_the_user_guide() -> None:
    text = document(
        {
            "Sid": "Clean-Rooms-CAMA-ID",
            "Effect": "Allow",
            "Principal": {"AWS": [A]},
            "Action": [START],
            "Resource": [MODEL, f"arn:aws:cleanrooms-ml:us-east-1:{B}:audience-generation-job/*"],
            "Condition": {"StringEquals": {KEY: ROOM}},
        }
    )
    assert decided(text, collaboration_id=ROOM) is YES
    assert decided(text, resource=JOB, collaboration_id=ROOM) is YES
    assert decided(text, collaboration_id=ROOM.replace("7", "8")) is NOTHING
    assert decided(text) is NOTHING
    assert decided(text, caller=C, collaboration_id=ROOM) is NOTHING


def test_principals() -> None:
    def is_meant(principal: Any, callers: str) -> None:
        for caller in (A, B, C):
            expected = YES if caller in callers else NOTHING
            assert decided(document(with_(Principal={"AWS": principal})), caller=caller) is expected
            if principal == "*":
                assert decided(document(with_(Principal="*")), caller=caller) is expected

    assert_each(
        is_meant,
        [
            (A, A),
            (f"arn:aws:iam::{A}:root", A),
            ([A, f"arn:aws:iam::{C}:root"], A + C),
            ("*", A + B + C),
            ([C, "*"], A + B + C),
            (C, C),
        ],
    )


def test_actions() -> None:
    def is_so(action: Any, is_meant: bool) -> None:
        assert decided(document(with_(Action=action))) is (YES if is_meant else NOTHING)
        assert decided(document(ALLOW, with_(Action=action, **DENY))) is (NO if is_meant else YES)

    assert_each(
        is_so,
        [
            (START, True),
            (START.lower(), True),
            (START.upper(), True),
            ("*", True),
            ("cleanrooms-ml:*", True),
            ("cleanrooms-ml:Start*", True),
            ("cleanrooms-ml:start?udienceGenerationJob", True),
            ("cleanrooms-ml:*GenerationJob*", True),
            ("cleanrooms-ml:StartAudienceExportJob", False),
            ("cleanrooms-ml:StartAudience??portJob", False),
            (["cleanrooms-ml:Get*", START], True),
            (["cleanrooms-ml:Get*", "cleanrooms-ml:Delete*"], False),
        ],
    )


def test_resources() -> None:
    def is_so(resource: Any, model: bool, job: bool) -> None:
        assert decided(document(with_(Resource=resource))) is (YES if model else NOTHING)
        assert decided(document(with_(Resource=resource)), resource=JOB) is (YES if job else NOTHING)

    assert_each(
        is_so,
        [
            (MODEL, True, False),
            ("*", True, True),
            (MODEL[:-12] + "*", True, False),
            (MODEL[:-1] + "?", True, False),
            ("arn:aws:cleanrooms-ml:*:*:*", True, True),
            ("arn:*:*:*:*:configured-audience-model/*", True, False),
            (JOB, False, True),
            (JOB[:-12] + "*", False, True),
            ([JOB, MODEL], True, True),
            (f"arn:aws:cleanrooms-ml:us-*:{B}:*/s*", True, True),
        ],
    )


def test_versions_and_shapes() -> None:
    def is_read(version: str | None) -> None:
        elements = {"Version": version} if version else {}
        assert decided(json.dumps({**elements, "Id": "x", "Statement": ALLOW})) is YES
        assert decided(json.dumps({**elements, "Statement": [{**ALLOW, "Sid": "one two"}]})) is YES

    assert_each(is_read, ["2012-10-17", "2008-10-17", None])


def test_deny_wins_in_any_order() -> None:
    for statements in ((ALLOW, with_(**DENY)), (with_(**DENY), ALLOW)):
        assert decided(document(*statements)) is NO
    assert decided(document(with_(**DENY, Principal={"AWS": C}), ALLOW)) is YES
    assert decided(document(with_(**DENY, Principal={"AWS": C}), ALLOW), caller=C) is NO


# ---------------------------------------------------------------- conditions


OPERATORS = [  # for the same value, for another, and where the request has none
    ("StringEquals", ROOM, (True, False, False)),
    ("StringEquals", ["x", ROOM], (True, False, False)),
    ("StringEquals", "*", (False, False, False)),
    ("StringEquals", ROOM.upper(), (False, False, False)),
    ("StringNotEquals", ROOM, (False, True, True)),
    ("StringNotEquals", ["x", ROOM], (False, True, True)),
    ("StringLike", "7f3b*", (True, False, False)),
    ("StringLike", ["x", "*789ab"], (True, False, False)),
    ("StringLike", "*", (True, True, False)),
    ("StringLike", "7F3B*", (False, False, False)),
    ("StringNotLike", "7f3b*", (False, True, True)),
    ("StringNotLike", "*", (False, False, True)),
    ("StringEqualsIfExists", ROOM, (True, False, True)),
    ("StringNotEqualsIfExists", ROOM, (False, True, True)),
    ("StringLikeIfExists", "7f*", (True, False, True)),
    ("StringNotLikeIfExists", "7f*", (False, True, True)),
    ("ForAnyValue:StringEquals", ROOM, (True, False, False)),
    ("ForAnyValue:StringEquals", ["x", ROOM], (True, False, False)),
    ("ForAnyValue:StringLike", ["x", "7f*"], (True, False, False)),
]


def test_operators() -> None:
    def is_so(operator: str, value: Any, holds: tuple[bool, bool, bool], key: str) -> None:
        text = document(under(operator, key, value))
        deny = document(ALLOW, under(operator, key, value, **DENY))
        for collaboration, it_holds in zip((ROOM, ROOM.replace("7", "8"), None), holds, strict=True):
            assert decided(text, collaboration_id=collaboration) is (YES if it_holds else NOTHING)
            assert decided(deny, collaboration_id=collaboration) is (NO if it_holds else YES)

    assert_each(is_so, ((*each, key) for each in OPERATORS for key in (KEY, KEY.lower(), KEY.upper())))


KEYS_THAT_HOLD = [
    ("aws:PrincipalAccount", A, {}, True),
    ("aws:PrincipalAccount", C, {}, False),
    ("aws:RequestTag/team", "ads", {"request_tags": {"team": "ads"}}, True),
    ("aws:RequestTag/TEAM", "ads", {"request_tags": {"team": "ads"}}, True),
    ("aws:requesttag/team", "ads", {"request_tags": {"Team": "ads"}}, True),
    ("aws:RequestTag/team", "ADS", {"request_tags": {"team": "ads"}}, False),
    ("aws:RequestTag/team", "ads", {"resource_tags": {"team": "ads"}}, False),
    ("aws:ResourceTag/team", "ads", {"resource_tags": {"team": "ads"}}, True),
    ("aws:ResourceTag/cost center/1", "", {"resource_tags": {"cost center/1": ""}}, True),
    ("aws:RequestTag/kelvin", "x", {"request_tags": {"\u212aelvin": "x"}}, False),
]


def test_keys() -> None:
    def is_so(key: str, value: str, context: dict[str, Any], holds: bool) -> None:
        assert decided(document(under("StringEquals", key, value)), **context) is (YES if holds else NOTHING)

    assert_each(is_so, KEYS_THAT_HOLD)


def test_all_keys_and_all_operators_must_hold() -> None:
    text = document(
        with_(
            Condition={
                "StringEquals": {KEY: ROOM, "aws:RequestTag/team": ["ads", "shop"]},
                "StringLike": {"aws:ResourceTag/stage": "prod*"},
            }
        )
    )
    good = {
        "collaboration_id": ROOM,
        "request_tags": {"team": "shop"},
        "resource_tags": {"stage": "production"},
    }
    assert decided(text, **good) is YES
    for name in good:
        assert decided(text, **{**good, name: None}) is NOTHING


def test_the_keys_of_the_tags_are_those_of_the_request() -> None:
    text = document(ALLOW, under("ForAnyValue:StringEquals", "aws:TagKeys", ["secret", "owner"], **DENY))
    assert decided(text, request_tags={"team": "x", "owner": "y"}) is NO
    assert decided(text, request_tags={"team": "x", "Owner": "y"}) is YES
    assert decided(text, resource_tags={"owner": "y"}) is YES
    assert decided(text) is YES
    text = document(under("ForAnyValue:StringLike", "aws:TagKeys", "te*"))
    assert decided(text, request_tags={"a": "x", "team": "y"}) is YES


def test_tags_that_differ_only_in_case_count_against_the_caller() -> None:
    def is_so(operator: str) -> None:
        tags = {"team": "ads", "Team": "other"}
        for value in tags.values():
            assert decided(document(under(operator, "aws:RequestTag/team", value)), request_tags=tags) is NOTHING
            deny = document(ALLOW, under(operator, "aws:RequestTag/team", value, **DENY))
            assert decided(deny, request_tags=tags) is NO

    assert_each(is_so, ["StringEquals", "StringLike", "ForAnyValue:StringEquals"])


def test_the_callers_account_comes_from_the_signature() -> None:
    text = read_policy(document(under("StringEquals", "aws:PrincipalAccount", A, Principal="*")), MODEL)
    context = {"aws:principalaccount": A, "aws:TagKeys": ["x"]}
    assert not allows(text, caller_account=C, action=START, resource_arn=MODEL, context=context)
    assert allows(text, caller_account=A, action=START, resource_arn=MODEL, context={"aws:PrincipalAccount": C})


def test_an_unusable_context_key_is_an_error() -> None:
    policy = read_policy(document(ALLOW), MODEL)
    with pytest.raises(ValueError):
        allows(policy, caller_account=A, action=START, resource_arn=MODEL, context={"aws:SourceIp": "10.0.0.1"})


# ---------------------------------------------------------------- presence, TLS, services, roles


def test_a_key_is_present_or_missing() -> None:
    def is_so(key: str, value: Any, context: dict[str, Any], holds: bool) -> None:
        assert decided(document(under("Null", key, value)), **context) is (YES if holds else NOTHING)
        assert decided(document(ALLOW, under("Null", key, value, **DENY)), **context) is (NO if holds else YES)

    tagged = {"request_tags": {"Team": ""}}
    assert_each(
        is_so,
        [
            (KEY, "true", {}, True),
            (KEY, True, {}, True),
            (KEY, "TRUE", {"collaboration_id": ROOM}, False),
            (KEY, "false", {"collaboration_id": ROOM}, True),
            (KEY, [False], {}, False),
            (KEY, ["true", "false"], {}, True),
            ("aws:RequestTag/team", False, tagged, True),
            ("aws:RequestTag/other", False, tagged, False),
            ("aws:ResourceTag/team", True, tagged, True),
            ("aws:TagKeys", False, tagged, True),
            ("aws:TagKeys", True, {}, True),
            ("aws:PrincipalAccount", True, {}, False),
            ("aws:SecureTransport", True, {}, False),
            ("aws:SourceAccount", True, {}, True),
        ],
    )


def test_whether_a_request_arrived_over_tls() -> None:
    def is_so(operator: str, value: Any, when: bool) -> None:
        for is_secure in (True, False):
            expected = YES if is_secure is when else NOTHING
            assert decided(document(under(operator, SECURE, value)), is_secure=is_secure) is expected
            denied = document(ALLOW, under(operator, SECURE.lower(), value, **DENY))
            assert decided(denied, is_secure=is_secure) is (NO if is_secure is when else YES)

    values = [("true", True), (True, True), (["True"], True), ("false", False), (False, False)]
    assert_each(is_so, [(operator, *each) for operator in ("Bool", "BoolIfExists") for each in values])


def test_no_request_comes_from_a_service() -> None:
    def is_so(operator: str, holds: bool) -> None:
        assert decided(document(under(operator, "aws:SourceAccount", A))) is (YES if holds else NOTHING)

    assert_each(is_so, [("StringEquals", False), ("StringNotEquals", True), ("StringEqualsIfExists", True)])
    policy = read_policy(document(ALLOW), MODEL)
    with pytest.raises(ValueError):
        allows(policy, caller_account=A, action=START, resource_arn=MODEL, context={"aws:SourceAccount": A})


def test_a_role_stands_for_its_account() -> None:
    for role in (f"arn:aws:iam::{A}:role/x", f"arn:aws:iam::{A}:role/path/to/Role+=,.@_-1"):
        allowed, denied = with_(Principal={"AWS": [role]}), with_(Principal={"AWS": role}, **DENY)
        assert decided(document(allowed)) is YES
        assert decided(document(allowed), caller=C) is NOTHING
        assert decided(document(with_(Principal="*"), denied)) is NO
        assert decided(document(with_(Principal="*"), denied), caller=C) is YES


# ---------------------------------------------------------------- starting a job


STARTS = [
    ([ALLOW], True),
    ([with_(Resource=[MODEL, JOB[:-12] + "*"])], True),
    ([with_(Resource="*")], True),
    ([with_(Resource=JOB[:-12] + "*")], False),
    ([ALLOW, with_(**DENY, Resource=JOB[:-12] + "*")], False),
    ([ALLOW, with_(**DENY, Resource=MODEL)], False),
    ([with_(Action="cleanrooms-ml:Get*")], False),
    ([with_(Principal={"AWS": C})], False),
    ([under("StringEquals", KEY, ROOM)], True),
    ([under("StringEquals", "aws:ResourceTag/stage", "prod")], True),
    ([ALLOW, under("StringEquals", "aws:ResourceTag/stage", "prod", **DENY)], False),
    ([ALLOW, under("StringEquals", "aws:RequestTag/team", "ads", **DENY)], False),
    ([ALLOW, under("StringNotEquals", KEY, ROOM, **DENY)], True),
    ([ALLOW, under("StringEquals", KEY, ROOM, **DENY)], False),
    ([under("Null", KEY, False)], True),
    ([ALLOW, under("Bool", SECURE, False, **DENY)], False),
    ([under("Bool", SECURE, True)], False),
    ([ALLOW, under("Null", "aws:ResourceTag/stage", False, **DENY)], False),
]


def test_who_may_start_a_job() -> None:
    def is_so(statements: list[dict[str, Any]], may: bool) -> None:
        found = may_start(
            read_policy(document(*statements), MODEL),
            caller_account=A,
            model_arn=MODEL,
            job_arn=JOB,
            collaboration_id=ROOM,
            request_tags={"team": "ads"},
            model_tags={"stage": "prod"},
        )
        assert found is may

    assert_each(is_so, STARTS)


# ---------------------------------------------------------------- what is refused

SECRET = "alice@example.com"  # stands for whatever somebody put where it does not belong

REJECTED: dict[str, tuple[str, str]] = {
    "empty": ("", "length between 1 and 20480"),
    "too long": (document(ALLOW) + " " * 20_480, "length between 1 and 20480"),
    "no JSON": (SECRET, "JSON document"),
    "NaN": ('{"Statement": NaN}', "JSON document"),
    "deep": ("[" * 20_000, "JSON document"),
    "long number": ('{"Version": ' + "9" * 10_000 + "}", "JSON document"),
    "list": ("[]", "object"),
    "twice": (f'{{"Statement": [], "Version": "2012-10-17", "Version": "{SECRET}"}}', "Version: .*twice"),
    "effect twice": (document(ALLOW).replace('"Effect"', '"Effect": "Deny", "Effect"'), "Effect: .*twice"),
    "no statement": ('{"Version": "2012-10-17"}', "Statement: .*missing"),
    "no statements": (document(), "Statement: .*non-empty list"),
    "version": (document(ALLOW, Version=SECRET), "Version: "),
    "version list": (document(ALLOW, Version=["2012-10-17"]), "Version: "),
    "id": (document(ALLOW, Id=3), "Id: "),
    "element": (document(ALLOW, Comment=SECRET), "Comment: "),
    "unnameable element": (json.dumps({"Statement": ALLOW, SECRET: 1}), r"\(unknown\): "),
    "statement": (document(SECRET), r"Statement\[0\]: .*object"),  # type: ignore[arg-type]
    "second statement": (document(ALLOW, {**ALLOW, "Effect": SECRET}), r"Statement\[1\]\.Effect: "),
    "sid": (document(with_(Sid=[SECRET])), r"Statement\[0\]\.Sid: "),
    "effect case": (document(with_(Effect="allow")), r"\.Effect: "),
    "element case": (document({**ALLOW, "action": START}), r"Statement\[0\]\.action: "),
    **{
        f"no {name}": (document({k: v for k, v in ALLOW.items() if k != name}), rf"\.{name}: .*missing")
        for name in ALLOW
    },
    **{f"not {name}": (document(with_(**{name: SECRET})), rf"Statement\[0\]\.{name}: ")
       for name in ("NotAction", "NotPrincipal", "NotResource", "Comment")},
    "principal": (document(with_(Principal=SECRET)), r"\.Principal: "),
    "principal list": (document(with_(Principal=[A])), r"\.Principal: "),
    "no principals": (document(with_(Principal={"AWS": []})), r"\.Principal\.AWS: "),
    "number": (document(with_(Principal={"AWS": int(A)})), r"\.Principal\.AWS: "),
    "service": (document(with_(Principal={"Service": "ec2.amazonaws.com"})), r"\.Principal\.Service: "),
    "and service": (document(with_(Principal={"AWS": A, "Service": "x"})), r"\.Principal\.Service: "),
    **{f"{kind} principal": (document(with_(Principal={kind: SECRET})), rf"\.Principal\.{kind}: ")
       for kind in ("Federated", "CanonicalUser", "aws")},
    **{
        f"principal {each}": (document(with_(Principal={"AWS": [A, each]})), r"\.Principal\.AWS\[1\]: ")
        for each in (
            f"arn:aws:iam::{C}:role/x", f"arn:aws:iam::{A}:role/", f"arn:aws:iam::{A}:role/*",
            f"arn:aws:iam::{A}:role/x y", f"arn:aws-cn:iam::{A}:role/x", "arn:aws:iam::*:role/x",
            f"arn:aws:iam::{A}:roles/x", f"arn:aws:sts::{A}:role/x", f"arn:aws:iam::{A}:role/x\n",
            f"arn:aws:iam::{A}:user/x", f"arn:aws:iam::{A}:*", "arn:aws:iam::*:root",
            f"arn:aws-cn:iam::{A}:root", f"arn:aws:sts::{A}:assumed-role/x/y", "1111*", "", A[:-1], A + "\n",
            "\u0661" * 12, "${aws:PrincipalAccount}",
        )
    },
    **{
        f"action {each}": (document(with_(Action=[START, each])), r"Statement\[0\]\.Action\[1\]: ")
        for each in (
            "s3:GetObject", "cleanrooms-*:StartAudienceGenerationJob", "*:*", "**", "Start*", "", "cleanrooms-ml:",
            "cleanrooms-ml:StartAudienceGenerationJobs", "cleanrooms-ml:CreateTrainedModel", "cleanrooms-ml:?",
            "cleanrooms-ml:${aws:username}*", "cleanrooms-ml:Start\u212aob", "cleanrooms-ml:" + "*" * 129,
        )
    },
    "no actions": (document(with_(Action=[])), r"\.Action: "),
    "action object": (document(with_(Action={"a": 1})), r"\.Action: "),
    **{
        f"resource {each}": (document(with_(Resource=[MODEL, each])), r"Statement\[0\]\.Resource\[1\]: ")
        for each in (
            "", "**", "arn:aws:*", "arn:aws:cleanrooms-ml:*", MODEL + ":x", MODEL[:-1], MODEL + "x", MODEL.upper(),
            MODEL.replace(B, A), MODEL.replace("east", "west"), MODEL.replace("aws", "aws-cn"),
            MODEL.replace("configured-", ""), JOB.replace(B, A), JOB.replace("us-east-1", "eu-*"),
            f"arn:aws:s3:::{SECRET}", MODEL.replace("shop", "${aws:PrincipalAccount}"), MODEL + "*" * 2048,
        )
    },
    "condition": (document(with_(Condition=SECRET)), r"\.Condition: "),
    "no condition": (document(with_(Condition={})), r"\.Condition: .*non-empty"),
    "no keys": (document(with_(Condition={"StringEquals": {}})), r"\.Condition\.StringEquals: .*non-empty"),
    "no values": (document(under("StringEquals", KEY, [])), r"StringEquals\.cleanrooms-ml:CollaborationId: "),
    "value": (document(under("StringEquals", KEY, True)), r"StringEquals\.cleanrooms-ml:CollaborationId: "),
    "variable": (document(under("StringEquals", KEY, ["x", "${*}"])), r"CollaborationId\[1\]: .*variables"),
    "long value": (document(under("StringLike", KEY, "x" * 2049)), r"CollaborationId: .*2048"),
    "key twice": (
        document(with_(Condition={"StringEquals": {KEY: ROOM, KEY.lower(): "x"}})), r"\.StringEquals: .*once",
    ),
    **{
        f"operator {each}": (document(under(each, KEY, ROOM)), r"Statement\[0\]\.Condition\.[A-Za-z:]+: .*one of")
        for each in (
            "stringEquals", "StringEqualsIgnoreCase", "ForAllValues:StringEquals", "ForAnyValue:StringNotEquals",
            "ForAnyValue:StringEqualsIfExists", "ArnLike", "IpAddress", "DateGreaterThan",
            "null", "NullIfExists", "ForAnyValue:Bool",
            "foranyvalue:StringEquals",
        )
    },
    "unnameable operator": (document(under(SECRET, KEY, ROOM)), r"\.Condition\.\(unknown\): "),
    **{
        f"key {each}": (document(under("StringEquals", each, "x")), r"\.Condition\.StringEquals\.[^ ]+: ")
        for each in (
            "aws:SourceIp", "aws:PrincipalArn", "aws:PrincipalOrgID", "aws:CurrentTime", "cleanrooms-ml:Other", "",
            KEY + " ", "aws:RequestTag/", "aws:RequestTag", "aws:RequestTag/*", "aws:RequestTag/gr\u00f6\u00dfe",
            "aws:TagKeys", "aws:PrincipalTag/team", f"aws:Nothing/{SECRET}", "aws:RequestTag/" + "x" * 129,
        )
    },
    **{
        f"{operator} of {value!r}": (document(under(operator, key, value)), rf"\.Condition\.{operator}\.{key}: ")
        for operator, key in (("Null", KEY), ("Bool", SECURE), ("BoolIfExists", SECURE), ("Null", SECURE))
        for value in ("yes", "", "0", 1, None, [], ["true", SECRET], [[True]], {"a": True})
    },
    **{
        f"{operator} of the key {key}": (document(under(operator, key, "true")), rf"Condition\.{operator}: .*Bool")
        for operator, key in (
            ("Bool", KEY), ("Bool", "aws:PrincipalAccount"), ("Bool", "aws:RequestTag/team"), ("Bool", SECRET),
            ("Bool", "aws:SourceAccount"), ("BoolIfExists", "aws:MultiFactorAuthPresent"),
            ("StringEquals", SECURE), ("StringLike", SECURE.lower()), ("ForAnyValue:StringEquals", SECURE),
        )
    },
    "Null of another key": (document(under("Null", "aws:SourceVpce", "true")), r"Null\.aws:SourceVpce: "),
    "unnameable key": (document(under("StringEquals", SECRET, "x")), r"StringEquals\.\(unknown\): "),
}  # fmt: skip


def test_an_unsupported_element_is_rejected_by_name() -> None:
    def is_rejected(_: str, refused: tuple[str, str]) -> None:
        text, message = refused
        with pytest.raises(ApiError) as caught:
            read_policy(text, MODEL, is_known=lambda account: account == A)
        error = caught.value
        assert (error.name, error.status) == ("ValidationException", 400)
        assert error.message.startswith(
            "1 validation error detected: Value at 'configuredAudienceModelPolicy' failed"
        )
        assert re.search(message, error.message), error.message
        assert SECRET not in error.message
        assert "alice" not in error.message
        assert error.__cause__ is None
        assert error.__suppress_context__

    assert_each(is_rejected, REJECTED.items())


ELEMENTS = [
    "Statement",
    "Effect",
    "Principal",
    "AWS",
    "Action",
    "Resource",
    "Condition",
    "StringEquals",
    KEY,
    "Sid",
]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ELEMENTS), inner, max_size=5),
    max_leaves=12,
)


@given(ANY_JSON)
def test_any_json_is_parsed_or_rejected(value: Any) -> None:
    for content in (value, {"Statement": value}, {"Statement": {**ALLOW, "Condition": value}}):
        try:
            read_policy(json.dumps(content), MODEL)
        except ApiError as error:
            assert error.name == "ValidationException"


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    with pytest.raises(ApiError):
        read_policy(text, MODEL)


def test_the_actions_are_those_of_the_model() -> None:
    """The 25 operations: all in botocore's model that do not concern custom models."""
    loaders = pytest.importorskip("botocore.loaders")
    model = loaders.Loader().load_service_model("cleanroomsml", "service-2")
    custom = re.compile("Trained|Algorithm|MLInput|MLConfiguration|Collaboration|CancelTr")
    names = [name for name in model["operations"] if not custom.search(name)]
    assert len(names) == 25
    for name in names:
        assert decided(document(with_(Action=f"cleanrooms-ml:{name}")), action=f"cleanrooms-ml:{name}") is YES


# ---------------------------------------------------------------- against a slow and obvious evaluator


def slow_match(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return slow_match(pattern[1:], text) or (bool(text) and slow_match(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and slow_match(pattern[1:], text[1:])


@given(st.text("ab*?", max_size=9), st.text("ab", max_size=9))
@example("", "")
@example("*", "")
@example("**a**", "aa")
@example("a*b*?", "aabb")
def test_wildcards(pattern: str, text: str) -> None:
    assert matches_wildcards(pattern, text) == slow_match(pattern, text)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def slow_condition(operator: str, values: list[str], given_values: list[str]) -> bool:
    if operator == "Null":
        return ("true" if not given_values else "false") in [str(value).lower() for value in values]
    if operator.startswith("Bool"):
        values = [str(value).lower() for value in values]
    name = operator.removeprefix("ForAnyValue:").removesuffix("IfExists")
    if not given_values:
        return operator.endswith("IfExists") or "Not" in name
    is_one = (
        any(slow_match(value, each) for value in values for each in given_values)
        if name.endswith("Like")
        else any(value == each for value in values for each in given_values)
    )
    return is_one != ("Not" in name)


def slow_decision(policy: Any, caller: str, resource: str, context: Mapping[str, str]) -> Decision:
    effects = set()
    keys = {**{key.lower(): [value] for key, value in context.items()}, "aws:principalaccount": [caller]}
    keys["aws:tagkeys"] = [key.split("/", 1)[1] for key in context if key.startswith("aws:RequestTag/")]
    for statement in listed(policy["Statement"]):
        principals = listed(
            statement["Principal"] if statement["Principal"] == "*" else statement["Principal"]["AWS"]
        )
        applies = any(
            each in ("*", caller, f"arn:aws:iam::{caller}:root", f"arn:aws:iam::{caller}:role/x")
            for each in principals
        )
        applies &= any(slow_match(each.lower(), START.lower()) for each in listed(statement["Action"]))
        applies &= any(slow_match(each, resource) for each in listed(statement["Resource"]))
        for operator, tests in statement.get("Condition", {}).items():
            for key, values in tests.items():
                applies &= slow_condition(operator, listed(values), keys.get(key.lower(), []))
        if applies:
            effects.add(statement["Effect"])
    return NO if "Deny" in effects else YES if effects else NOTHING


def one_or_more(*choices: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(choices) | st.lists(st.sampled_from(choices), min_size=1, max_size=3)


VALUES = one_or_more("ads", "shop", "a*", "*", "?ds", ROOM, A)
SINGLE = [f"String{word}{end}" for word in ("Equals", "NotEquals", "Like", "NotLike") for end in ("", "IfExists")]
KEYS = [
    KEY,
    KEY.lower(),
    "aws:PrincipalAccount",
    "aws:RequestTag/team",
    "aws:resourcetag/Team",
    "aws:SourceAccount",
]
TRUTHS = st.sampled_from(["true", "false", "True", True, False, ["true", "false"], [True]])
STATEMENTS = st.fixed_dictionaries(
    {
        "Effect": st.sampled_from(["Allow", "Allow", "Deny"]),
        "Principal": st.just("*")
        | st.fixed_dictionaries(
            {"AWS": one_or_more("*", A, C, f"arn:aws:iam::{A}:root", f"arn:aws:iam::{C}:role/x")}
        ),
        "Action": one_or_more(
            "*", START, START.upper(), "cleanrooms-ml:Get*", "cleanrooms-ml:*job", "cleanrooms-ml:S*"
        ),
        "Resource": one_or_more("*", MODEL, MODEL[:-3] + "*", JOB[:-4] + "????", "arn:aws:*:*:*:*"),
    },
    optional={
        "Condition": st.dictionaries(
            st.sampled_from([*SINGLE, "ForAnyValue:StringEquals", "ForAnyValue:StringLike"]),
            st.dictionaries(st.sampled_from(KEYS[1:]), VALUES, min_size=1, max_size=2),
            min_size=1,
            max_size=2,
        )
        | st.dictionaries(
            st.just("Null"),
            st.dictionaries(st.sampled_from([*KEYS[1:], "aws:TagKeys", SECURE]), TRUTHS, min_size=1, max_size=2),
            min_size=1,
        )
        | st.dictionaries(
            st.sampled_from(["Bool", "BoolIfExists"]),
            st.fixed_dictionaries({SECURE.lower(): TRUTHS}),
            min_size=1,
        )
        | st.fixed_dictionaries(
            {"ForAnyValue:StringLike": st.fixed_dictionaries({"aws:TagKeys": one_or_more("team", "o*", "x")})}
        ),
    },
)


@given(
    st.lists(STATEMENTS, min_size=1, max_size=4),
    st.sampled_from([A, C]),
    st.sampled_from([MODEL, JOB]),
    st.fixed_dictionaries(
        {
            "collaboration_id": st.sampled_from([None, ROOM, "other"]),
            "request_tags": st.dictionaries(
                st.sampled_from(["team", "owner"]), st.sampled_from(["ads", "shop", ""])
            ),
            "resource_tags": st.dictionaries(st.just("team"), st.sampled_from(["ads", "shop"])),
            "is_secure": st.booleans(),
        }
    ),
)
def test_decisions_match_a_simple_evaluator(
    statements: list[dict[str, Any]],
    caller: str,
    resource: str,
    context: dict[str, Any],
) -> None:
    expected = slow_decision({"Statement": statements}, caller, resource, context_of(**context))
    assert decided(document(*statements), caller=caller, resource=resource, **context) is expected


# ---------------------------------------------------------------- no document is slow


LARGE = [
    document(under("StringLike", "aws:RequestTag/t", ["*a" * 1000 + "b"] * 9)),
    document(under("StringLike", "aws:RequestTag/t", ["*" + "?a" * 900 + "b"] * 10)),
    document(under("StringLike", "aws:RequestTag/t", ["*a?*b"] * 2000)),
    document(with_(Resource=["*:*:*:*:*:*" + "?" * 9] * 800)),
    document(with_(Resource=["arn:aws:cleanrooms-ml:*:*:*"] * 600)),
    document(with_(Action=["cleanrooms-ml:*" + "*?" * 20] * 300)),
    document(*[{**ALLOW, "Principal": "*"}] * 80),
    '{"Statement":{' + ",".join(f'"{number}":1' for number in range(2200)) + "}}",
    '{"Statement":' + "[" * 10_000 + "]" * 10_000 + "}",
]


def test_no_document_is_slow() -> None:
    tag = "a" * 256

    def hold_each_against_each() -> int:
        return sum(one == other for one in LARGE[0] for other in tag)

    def decide_or_reject(text: str) -> None:
        with suppress(ApiError):
            decided(text, request_tags={"t": tag})

    most = effort(hold_each_against_each)

    def is_quick(text: str) -> None:
        assert 10_000 < len(text) <= 20_480
        assert effort(lambda: decide_or_reject(text)) < most

    assert_each(is_quick, LARGE)
