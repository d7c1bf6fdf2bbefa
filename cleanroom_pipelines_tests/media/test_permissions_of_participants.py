"""Participants, built and loaded by scripts.

Contract: a built participant and a loaded one behave alike; the export permission allows exports. Neither was the
case in Decentriq's client.
"""

import json

import pytest

from cleanroom_pipelines.media import InvalidRequestError, Participant, Permission

from ..cases import assert_each

LISTED = {
    "id": "7f",
    "emails": ["a@example.com"],
    "role": "advertiser",
    "permissions": ["EXPORT_AUDIENCE", "VIEW_OVERLAP"],
    "organization_id": None,
}


def test_a_built_participant_that_holds_the_permission_can_export() -> None:
    assert Participant(["a@example.com"], [Permission.EXPORT_AUDIENCE], "advertiser").can_export_audience()


def test_no_other_permission_allows_exports() -> None:
    def cannot_export(permission: Permission) -> None:
        assert not Participant(["a@example.com"], [permission], "advertiser").can_export_audience()

    assert_each(cannot_export, [each for each in Permission if each is not Permission.EXPORT_AUDIENCE])


def test_a_loaded_participant_equals_a_built_one() -> None:
    loaded = Participant.from_dict(LISTED)
    assert loaded.can_export_audience()
    assert loaded.permissions == [Permission.EXPORT_AUDIENCE, Permission.VIEW_OVERLAP]
    assert loaded.as_dict() == {name: value for name, value in LISTED.items() if name != "organization_id"}
    assert Participant.from_dict(json.loads(json.dumps(loaded.as_dict()))) == loaded


def test_a_built_participant_has_no_id() -> None:
    built = Participant(["a@example.com"], [], "observer")
    assert built.as_dict() == {"emails": ["a@example.com"], "role": "observer", "permissions": []}


def test_an_unknown_permission_is_rejected_but_not_quoted() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Participant(["a@example.com"], ["FLY"], "advertiser")  # type: ignore[list-item]
    assert "FLY" not in str(caught.value)
    assert "EXPORT_AUDIENCE" in str(caught.value)


def test_a_string_is_not_accepted_as_a_list_of_addresses() -> None:
    with pytest.raises(InvalidRequestError):
        Participant("a@example.com", [], "advertiser")  # type: ignore[arg-type]


def test_member_addresses_are_case_insensitive() -> None:
    assert Participant(["A@Example.com"], [], "x").has_member("a@example.COM")
    assert not Participant(["a@example.com"], [], "x").has_member("b@example.com")
