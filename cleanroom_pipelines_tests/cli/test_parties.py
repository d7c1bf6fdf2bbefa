"""The commands for accounts, keys, collaborations, templates and buckets.

Contract: a secret is shown once and stored encrypted; accounts are given by id or name; `--json`
prints one document on stdout; errors are one sentence on stderr with exit code 2, and change nothing.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.catalog import LOCAL_ACCOUNT
from cleanroom_pipelines.errors import ConfigurationError, NotFoundError
from cleanroom_pipelines.runs.credentials import issue_access_key, open_access_key
from cleanroom_pipelines.runs.installation import Installation

from ..cases import assert_each
from .commands import Commands, Ended

ALPHA = "111122223333"


def read(ended: Ended) -> Any:
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


def assert_rejected(ended: Ended) -> str:
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    return ended.err


@pytest.fixture
def two(command: Commands, installation: Installation) -> dict[str, str]:
    """The ids of two accounts by name."""
    read(command("account", "create", "alpha", "--id", ALPHA, "--json"))
    return {"alpha": ALPHA, "beta": read(command("account", "create", "beta", "--json"))["account_id"]}


def test_account_is_created_with_a_key(command: Commands, installation: Installation) -> None:
    made = read(command("account", "create", "alpha", "--id", ALPHA, "--json"))
    assert set(made) == {"account_id", "organization", "access_key_id", "secret_access_key"}
    assert made["account_id"] == ALPHA
    assert re.fullmatch("AKIA[A-Z2-7]{16}", made["access_key_id"])
    assert re.fullmatch("[A-Za-z0-9+/]{40}", made["secret_access_key"])
    key = installation.catalog.parties.access_key(made["access_key_id"])
    assert key is not None
    assert open_access_key(installation, key) == made["secret_access_key"]
    assert re.fullmatch("[0-9]{12}", read(command("account", "create", "beta", "--json"))["account_id"])


def test_account_belongs_to_an_organization(command: Commands, installation: Installation) -> None:
    made = read(command("account", "create", "alpha", "--id", ALPHA, "--organization", "Shop.example", "--json"))
    assert made["organization"] == "shop.example"
    own = read(command("account", "create", "beta", "--json"))
    assert own["organization"] == own["account_id"], "an account of no other is one of its own"
    listed = {one["name"]: one["organization"] for one in read(command("account", "list", "--json"))}
    assert listed == {"alpha": "shop.example", "beta": own["account_id"]}
    assert "shop.example" in command("account", "list").out
    assert installation.catalog.pairs.organization_of_account(ALPHA) == "shop.example"
    assert "organization is invalid" in assert_rejected(
        command("account", "create", "gamma", "--organization", "")
    )
    assert len(installation.catalog.parties.accounts()) == 2, "nothing is made half"


@pytest.mark.parametrize(
    "terms", [("in-place", "private", "life"), ("removed", "private", "month"), ("in-place", "full", "life")]
)
def test_collaboration_has_terms(
    command: Commands, installation: Installation, two: dict[str, str], terms: tuple[str, str, str]
) -> None:
    named = dict(zip(["seed", "privacy", "period"], terms, strict=True))
    options = [part for name, value in named.items() for part in (f"--{name}", value)]
    made = read(command("collaboration", "create", "retail", "--members", "alpha,beta", *options, "--json"))
    assert {name: made[name] for name in named} == named
    assert read(command("collaboration", "list", "--json")) == [made]
    shown = command("collaboration", "list").out
    assert all(f"{name} {value}" in shown for name, value in named.items())
    (kept,) = installation.catalog.parties.collaborations()
    assert (kept.seed_removed, kept.full_ensemble) == (terms[0] == "removed", terms[1] == "full")
    ledger = installation.catalog.pairs.ledger(installation.catalog.pairs.pair(*two.values()).id)
    assert (ledger.period or "life") == terms[2]


def test_collaboration_is_private_without_period_by_default(command: Commands, two: dict[str, str]) -> None:
    made = read(command("collaboration", "create", "retail", "--members", "alpha,beta", "--json"))
    assert [made[name] for name in ("seed", "privacy", "period")] == ["in-place", "private", "life"]


def test_secret_is_shown_once_and_stored_nowhere(command: Commands, installation: Installation) -> None:
    shown = command("account", "create", "alpha")
    assert "only once" in shown.err
    secret = shown.out.split("secret access key ")[1].strip()
    assert len(secret) == 40
    for arguments in (["account", "list"], ["account", "list", "--json"]):
        assert secret not in command(*arguments).out
    files = [path for path in installation.home.root.rglob("*") if path.is_file()]
    assert files
    assert not any(secret.encode() in path.read_bytes() for path in files)


def test_two_keys_of_an_account_differ(installation: Installation) -> None:
    installation.catalog.parties.create_account("alpha", ALPHA)
    first, second = (issue_access_key(installation, ALPHA) for _ in range(2))
    assert len({*first, *second}) == 4
    with pytest.raises(NotFoundError):
        issue_access_key(installation, "999999999999")


def test_key_of_another_installation_cannot_be_unsealed(installation: Installation) -> None:
    installation.catalog.parties.create_account("alpha", ALPHA)
    sealed = installation.key.seal("something else", b"secret").decode()
    key = installation.catalog.parties.add_access_key(ALPHA, "AKIA" + "A" * 16, sealed)
    with pytest.raises(ConfigurationError):
        open_access_key(installation, key)


def test_keys_are_added_and_disabled(command: Commands, two: dict[str, str]) -> None:
    for named in ("alpha", ALPHA):
        assert read(command("account", "key", "create", named, "--json"))["account_id"] == ALPHA
    keys = read(command("account", "list", "--json"))[0]["access_keys"]
    assert len(keys) == 3
    gone = keys[1]["access_key_id"]
    assert read(command("account", "key", "disable", gone, "--json")) == {"access_key_id": gone, "disabled": True}
    after = read(command("account", "list", "--json"))[0]["access_keys"]
    assert [key["access_key_id"] for key in after if key["disabled"]] == [gone]
    assert f"{gone} (disabled)" in command("account", "list").out
    assert "no such access key" in assert_rejected(command("account", "key", "disable", "AKIA" + "A" * 16))


def test_accounts_are_disabled_and_enabled(command: Commands, two: dict[str, str]) -> None:
    assert read(command("account", "disable", "alpha", "--json")) == {"account_id": ALPHA, "disabled": True}
    listed = {one["name"]: one for one in read(command("account", "list", "--json"))}
    assert [listed[name]["disabled"] for name in ("alpha", "beta")] == [True, False]
    assert [key["disabled"] for key in listed["alpha"]["access_keys"]] == [True]
    assert command("account", "enable", ALPHA).out == "Enabled.\n"
    assert not any(one["disabled"] for one in read(command("account", "list", "--json")))


def test_operator_account_is_adopted(command: Commands, installation: Installation) -> None:
    assert "no such account" in assert_rejected(command("account", "key", "create", LOCAL_ACCOUNT))
    read(command("account", "create", "operator", "--id", LOCAL_ACCOUNT, "--json"))
    assert read(command("account", "key", "create", "operator", "--json"))["account_id"] == LOCAL_ACCOUNT


def test_invalid_accounts_are_rejected(command: Commands, two: dict[str, str]) -> None:
    def is_rejected(arguments: list[str], words: str) -> None:
        assert words in assert_rejected(command("account", "create", *arguments))
        assert len(read(command("account", "list", "--json"))) == 2

    assert_each(
        is_rejected,
        [
            (["alpha"], "with this name already"),
            (["gamma", "--id", ALPHA], "with this id already"),
            (["gamma", "--id", "12"], "not 12 digits"),
            (["123456789012"], "looks like an account id"),
            ([" "], "name is invalid"),
        ],
    )


def test_collaborations(command: Commands, two: dict[str, str]) -> None:
    made = read(command("collaboration", "create", "retail", "--members", f"alpha, {two['beta']}", "--json"))
    members = [{"account_id": two[name], "active": True} for name in ("alpha", "beta")]
    assert made["members"] == members
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["collaboration_id"])
    assert read(command("collaboration", "list", "--json")) == [made]
    members[1]["active"] = False
    left = read(command("collaboration", "leave", "retail", "--account", "beta", "--json"))
    assert left == made | {"members": members}
    assert command("collaboration", "leave", made["collaboration_id"], "--account", "alpha").out == "Left.\n"
    assert f"{ALPHA} (left)" in command("collaboration", "list").out
    assert "2 to 10" in assert_rejected(command("collaboration", "create", "other", "--members", "alpha"))
    assert "no such account" in assert_rejected(
        command("collaboration", "create", "other", "--members", "alpha,gamma")
    )
    assert "collaboration does not exist" in assert_rejected(
        command("collaboration", "leave", "other", "--account", "alpha")
    )


def test_templates(command: Commands, two: dict[str, str], tmp_path: Path) -> None:
    sql = tmp_path / "buyers.sql"
    sql.write_text("SELECT user_id FROM shop.buyers WHERE day > :day\n")
    made = read(command("template", "add", "buyers", "--account", "alpha", "--sql", sql, "--json"))
    assert made["account_id"] == ALPHA
    assert made["arn"].startswith(f"arn:aws:cleanrooms:us-east-1:{ALPHA}:membership/")
    assert read(command("template", "list", "--json")) == [made]
    assert "shop.buyers" not in command("template", "list").out
    assert "cannot be read" in assert_rejected(
        command("template", "add", "other", "--account", "alpha", "--sql", tmp_path / "nowhere")
    )
    assert "already" in assert_rejected(command("template", "add", "buyers", "--account", "alpha", "--sql", sql))


def test_buckets(command: Commands, two: dict[str, str]) -> None:
    local = read(command("bucket", "create", "seeds", "--account", "alpha", "--json"))
    assert (local["bucket"], local["account_id"], local["url"]) == ("seeds", ALPHA, None)
    real = read(
        command(
            *("bucket", "register", "exports", "--account", "beta", "--url", "s3://real/prefix"),
            *("--credentials-profile", "partner", "--json"),
        )
    )
    assert (real["account_id"], real["url"], real["credentials_profile"]) == (
        two["beta"],
        "s3://real/prefix",
        "partner",
    )
    assert read(command("bucket", "list", "--json")) == [real, local]
    assert "s3://real/prefix" in command("bucket", "list").out
    assert "already" in assert_rejected(command("bucket", "create", "seeds", "--account", "beta"))
    assert "S3" in assert_rejected(command("bucket", "create", "UPPER", "--account", "beta"))
    elsewhere = ("bucket", "register", "x-1", "--account", "beta", "--url", "https://a.b")
    assert "URL" in assert_rejected(command(*elsewhere, "--credentials-profile", "partner"))


def test_empty_list_prints_a_hint(command: Commands, installation: Installation) -> None:
    _ = installation.catalog  # a list creates no home

    def says_so(group: str) -> None:
        assert read(command(group, "list", "--json")) == []
        ended = command(group, "list")
        assert ended.code == 0
        assert re.match("(There are|No)", ended.out)

    assert_each(says_so, ["account", "collaboration", "template", "bucket"])
