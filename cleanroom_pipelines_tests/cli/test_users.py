"""Commands for data-room users and tokens.

Contract: a token is shown once and stored as a keyed digest; it is rejected when revoked,
expired or of a disabled user; errors are one sentence on stderr with exit code 2.
"""

import json
from typing import Any

import pytest

from cleanroom_pipelines.runs.credentials import user_of
from cleanroom_pipelines.runs.installation import Installation

from .. import worlds
from ..cases import assert_each
from .commands import Commands, Ended

EMAIL = "analyst@adv.example"


def read(ended: Ended) -> Any:
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


@pytest.fixture
def token(command: Commands, installation: Installation) -> dict[str, str]:
    assert read(command("user", "create", EMAIL, "--json")) == {"email": EMAIL}
    return dict(read(command("token", "issue", EMAIL, "--json")))


def test_token_grants_the_permissions_of_its_user(installation: Installation, token: dict[str, str]) -> None:
    assert user_of(installation, token["token"]) == EMAIL
    for other in ("", "crt_", token["token"][:-1], token["token"] + "x", token["token"].swapcase()):
        assert user_of(installation, other) is None


def test_token_is_stored_nowhere(installation: Installation, token: dict[str, str]) -> None:
    for path in installation.home.root.rglob("*"):
        if path.is_file():
            assert token["token"].encode() not in path.read_bytes()


def test_revoked_token_is_rejected(command: Commands, installation: Installation, token: dict[str, str]) -> None:
    (listed,) = read(command("token", "list", EMAIL, "--json"))
    assert (listed["id"], listed["revoked"]) == (token["id"], False)
    assert command("token", "revoke", token["id"]).code == 0
    assert user_of(installation, token["token"]) is None


def test_tokens_of_a_disabled_user_are_rejected(
    command: Commands, installation: Installation, token: dict[str, str]
) -> None:
    assert command("user", "disable", EMAIL).code == 0
    assert read(command("user", "list", "--json")) == [{"email": EMAIL, "disabled": True}]
    assert user_of(installation, token["token"]) is None
    assert command("user", "enable", EMAIL).code == 0
    assert user_of(installation, token["token"]) == EMAIL


def test_expired_token_is_rejected(installation: Installation, token: dict[str, str]) -> None:
    assert user_of(worlds.later(installation, days=89), token["token"]) == EMAIL
    assert user_of(worlds.later(installation, days=91), token["token"]) is None


def test_invalid_arguments_give_one_sentence(command: Commands, installation: Installation) -> None:
    def is_rejected(*arguments: str) -> None:
        ended = command(*arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)

    assert_each(
        is_rejected,
        [
            ("user", "create", "no address"),
            ("token", "issue", "nobody@x.example"),
            ("token", "revoke", "0123456789abcdef"),
            ("user", "disable", "nobody@x.example"),
        ],
    )


def test_days_out_of_range_are_rejected(command: Commands, token: dict[str, str]) -> None:
    for days in ("0", "100000"):
        assert command("token", "issue", EMAIL, "--days", days).code == 2
