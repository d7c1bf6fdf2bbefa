"""The columns that hold JSON.

Contract: byte by byte what existing homes contain; an unreadable value is an error that does not quote it.
"""

import json
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeDecorator

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import Kind, ParentRef, ParticipantSpec, RequestedSeed
from cleanroom_pipelines.catalog.specs import LARGEST
from cleanroom_pipelines.catalog.tables import ROWS, VersionRow
from cleanroom_pipelines.terms import CollaborationType, Permission
from cleanroom_pipelines.uploads.roles import Role

MAY = (Permission.VIEW_OVERLAP, Permission.MANAGE_USERS)
GROUP = ParticipantSpec("aa", ("a@b.org", "c@b.org"), "publisher", MAY)
GROUP_TEXT = (
    '{"id": "aa", "emails": ["a@b.org", "c@b.org"], "role": "publisher", '
    '"permissions": ["VIEW_OVERLAP", "MANAGE_USERS"], "organization_id": null}'
)
SEED = RequestedSeed(role_arn="arn", query="SELECT :a", parameters={"b": "2", "a": "1"})
SEED_TEXT = (
    '{"role_arn": "arn", "s3_uri": null, "query": "SELECT :a", "template_arn": null, '
    '"parameters": {"b": "2", "a": "1"}, "protected_query_id": null}'
)


def size(text: str) -> AudienceSize:
    return AudienceSize.parse(text)


def column(row: Any, name: str) -> TypeDecorator[Any]:
    found = row.__table__.c[name].type
    assert isinstance(found, TypeDecorator)
    return found


KEPT = [
    (ROWS[Kind.TRAINING_DATASET], "columns", (("a", Role.USER_ID), ("b", Role.ITEM_ID)), None),
    (ROWS[Kind.EXPORT_JOB], "size", size("5%"), '{"type": "PERCENTAGE", "value": 5}'),
    (ROWS[Kind.EXPORT_JOB], "size", size("0.5%"), '{"type": "PERCENTAGE", "value": 0.5}'),
    (ROWS[Kind.GENERATION_JOB], "export_size", size("700"), '{"type": "ABSOLUTE", "value": 700}'),
    (ROWS[Kind.GENERATION_JOB], "export_size", LARGEST, '"largest"'),
    (ROWS[Kind.GENERATION_JOB], "export_size", None, "null"),
    (ROWS[Kind.GENERATION_JOB], "requested_seed", SEED, SEED_TEXT),
    (ROWS[Kind.DATA_ROOM], "participants", (GROUP,), f"[{GROUP_TEXT}]"),
    (
        ROWS[Kind.DATA_ROOM],
        "participants",
        (GROUP.without("c@b.org"),),
        f"[{GROUP_TEXT}]".replace(', "c@b.org"]', "]").replace("null}", 'null, "declined": ["c@b.org"]}'),
    ),
    (ROWS[Kind.DATA_ROOM], "collaboration_types", (CollaborationType.INSIGHTS,), '["ENABLE_INSIGHTS"]'),
    (ROWS[Kind.DATA_ROOM], "matching_ids", ("EMAIL", "PHONE"), '["EMAIL", "PHONE"]'),
    (
        VersionRow,
        "parents",
        (ParentRef(Kind.AUDIENCE_MODEL, "m", 3),),
        '[{"kind": "audience_model", "id": "m", "version": 3}]',
    ),
]


@pytest.mark.parametrize(("row", "name", "value", "text"), KEPT)
def test_stored_text_is_unchanged(row: Any, name: str, value: Any, text: str | None) -> None:
    text = text or '[["a", "USER_ID"], ["b", "ITEM_ID"]]'
    kept = column(row, name)
    assert json.dumps(kept.process_bind_param(value, sqlite.dialect())) == text
    assert kept.process_result_value(json.loads(text), sqlite.dialect()) == value


def test_sizes_are_stored_in_ascending_order() -> None:
    kept = column(ROWS[Kind.CONFIGURED_AUDIENCE_MODEL], "sizes")
    text = '[{"type": "PERCENTAGE", "value": 1}, {"type": "PERCENTAGE", "value": 10}]'
    assert json.dumps(kept.process_bind_param((size("10%"), size("1%")), sqlite.dialect())) == text
    found = kept.process_result_value(json.loads(text), sqlite.dialect())
    assert found == (size("1%"), size("10%"))
    assert [type(each.value) for each in found] == [int, int]


def test_unreadable_value_is_not_quoted() -> None:
    kept = column(ROWS[Kind.DATA_ROOM], "participants")
    with pytest.raises((ValueError, TypeError, KeyError)) as caught:
        kept.process_result_value([json.loads(GROUP_TEXT) | {"emails": 5, "role": "canary"}], sqlite.dialect())
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None
