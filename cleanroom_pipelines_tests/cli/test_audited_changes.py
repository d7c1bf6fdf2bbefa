"""The audit log records each command that changes something, and each rejected command.

Contract: README, security. aws/, media/ and server/ test the same for HTTP.
"""

import json
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.installation import Installation

from .. import worlds
from ..storage.auditing import lines_of
from .commands import Commands, Ended

EMAIL = "data@publisher.example"


class Watched:
    """Runs commands and gives what each adds to the audit log."""

    def __init__(self, command: Commands, installation: Installation) -> None:
        self.command, self.installation = command, installation

    def __call__(self, *arguments: str | Path) -> tuple[Ended, list[tuple[str, str, str]]]:
        before = self.entries()
        ended = self.command(*arguments)
        return ended, self.entries()[len(before) :]

    def entries(self) -> list[tuple[str, str, str]]:
        self.installation.audit.flush()
        return [(each["way"], each["operation"], each["outcome"]) for each in self.installation.audit.entries()]


@pytest.fixture
def watched(command: Commands, installation: Installation) -> Watched:
    return Watched(command, installation)


def test_every_changing_command_writes_an_entry(watched: Watched, world: worlds.World, tmp_path: Path) -> None:
    def done(operation: str, *arguments: str | Path) -> str:
        ended, entries = watched(*arguments)
        assert ended.code == 0, ended.err
        if ("cli", operation, "ok") not in entries:
            silent.append(" ".join(map(str, arguments[:2])))
        return ended.out

    silent: list[str] = []
    first, second = (json.loads(done("create_account", "account", "create", name, "--json")) for name in "ab")
    done("set_account_disabled", "account", "disable", first["account_id"])
    done("set_account_disabled", "account", "enable", first["account_id"])
    key = json.loads(done("add_access_key", "account", "key", "create", second["account_id"], "--json"))
    done("disable_access_key", "account", "key", "disable", key["access_key_id"])
    done("create_collaboration", "collaboration", "create", "Both", "--members", "a,b")
    done("register_bucket", "bucket", "create", "lists", "--account", "a")
    done("create_user", "user", "create", EMAIL)
    token = json.loads(done("add_token", "token", "issue", EMAIL, "--json"))
    done("revoke_token", "token", "revoke", token["id"])
    done("set_user_disabled", "user", "disable", EMAIL)
    done("create", "apply", world.declaration)
    dataset = worlds.the(watched.installation, Kind.TRAINING_DATASET)
    done("request_cancel", "cancel", dataset.id)
    done("retry", "retry", dataset.id)
    done("delete", "delete", dataset.id, "--with-dependents", "--yes")
    done("backup", "backup", tmp_path / "home.tar")
    assert silent == []


@pytest.mark.parametrize("arguments", [("retry",), ("cancel",)])
def test_rejected_command_writes_an_entry(
    watched: Watched, world: worlds.World, arguments: tuple[str, ...]
) -> None:
    watched("apply", world.declaration)
    dataset = worlds.the(watched.installation, Kind.TRAINING_DATASET)
    if arguments == ("cancel",):
        watched("cancel", dataset.id)
    ended, entries = watched(*arguments, dataset.id)
    assert ended.code == 2
    assert [each[2] for each in entries] == ["refused"]


def test_mistyped_ids_are_not_logged(watched: Watched) -> None:
    watched("user", "create", EMAIL)
    secret = json.loads(watched.command("token", "issue", EMAIL, "--json").out)["token"]
    silent = []
    for words in (("token", "revoke"), ("account", "key", "disable")):
        ended, entries = watched(*words, secret)
        if ended.code != 2 or [each[2] for each in entries] != ["refused"]:
            silent.append(words)
    assert silent == []
    assert secret.encode() not in b"".join(lines_of(watched.installation.home.audit))


def test_entries_contain_no_addresses(watched: Watched) -> None:
    watched("user", "create", EMAIL)
    assert EMAIL.encode() not in b"".join(lines_of(watched.installation.home.audit))
