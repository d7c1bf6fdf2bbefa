"""Applying a declaration creates and updates receivers of notices.

Contract: one channel per receiver; a webhook uses https or an address of this machine; a command gets only the
operator's notices; secrets are named, never declared; a message never quotes what was declared.
"""

from typing import Any

import pytest

from cleanroom_pipelines.catalog import Command, Kind, Mail, NoticeReceiver, Webhook
from cleanroom_pipelines.errors import CleanroomError, UsageError

from ..cases import assert_each
from .conftest import Room

MAIL = {"to": "ops@shop.example", "from": "cleanroom@host.example", "host": "mail.example"}
HOOK = {"url": "https://hooks.example/notices", "secret": "OPS"}
NOTICES: list[dict[str, Any]] = [
    {"name": "shop", "organization": "Shop Group", "webhook": HOOK, "kinds": ["generation_job", "export_job"]},
    {"name": "mail", "email": {**MAIL, "user": "mailer", "secret": "SMTP"}, "only_failures": True},
    {"name": "pager", "command": "notify-send 'clean room'"},
]


@pytest.fixture
def declared(room: Room) -> Room:
    room.raw["accounts"] = [{"name": "shop", "organization": "Shop Group"}]
    room.raw["notices"] = [dict(each) for each in NOTICES]
    return room


def notices_of(room: Room, dry_run: bool = False) -> list[tuple[str, str]]:
    return [(each.action, each.name) for each in room.apply(dry_run) if each.kind.value == "notice"]


def test_receivers_are_created_updated_and_kept(declared: Room) -> None:
    names = ["shop", "mail", "pager"]
    assert notices_of(declared, dry_run=True) == [("create", name) for name in names]
    assert declared.catalog.notices.all() == ()
    assert notices_of(declared) == [("create", name) for name in names]
    kinds = (Kind.EXPORT_JOB, Kind.GENERATION_JOB)
    mail = Mail("ops@shop.example", "cleanroom@host.example", "mail.example", 587, "mailer", "SMTP")
    assert declared.catalog.notices.all() == (
        NoticeReceiver("mail", mail, only_failures=True),
        NoticeReceiver("pager", Command("notify-send 'clean room'")),
        NoticeReceiver("shop", Webhook("https://hooks.example/notices", "OPS"), "shop group", kinds),
    )
    assert notices_of(declared) == [("keep", name) for name in names]
    declared.raw["notices"][1]["only_failures"] = False
    changed = [("keep", "shop"), ("update", "mail"), ("keep", "pager")]
    assert notices_of(declared, dry_run=True) == notices_of(declared) == changed
    assert [each.only_failures for each in declared.catalog.notices.all()] == [False] * 3


WRONG: dict[str, dict[str, Any]] = {
    "no channel": {},
    "two channels": {"webhook": HOOK, "command": "canary"},
    "http to another machine": {"webhook": {"url": "http://canary.example/"}},
    "http to a name that only looks local": {"webhook": {"url": "http://localhost.canary.example/"}},
    "another scheme": {"webhook": {"url": "file:///canary"}},
    "user in the URL": {"webhook": {"url": "https://canary@hooks.example/"}},
    "no host": {"webhook": {"url": "https:///canary"}},
    "invalid port": {"webhook": {"url": "https://canary.example:99999/"}},
    "space in the URL": {"webhook": {"url": "https://canary.example/a b"}},
    "secret in the declaration": {"webhook": {**HOOK, "secret": "canary/secret"}},
    "command of an organisation": {"organization": "Shop Group", "command": "canary"},
    "command that cannot be split": {"command": "canary '"},
    "unknown organisation": {"organization": "canary", "webhook": HOOK},
    "unknown kind": {"webhook": HOOK, "kinds": ["canary"]},
    "two addresses": {"email": {**MAIL, "to": "a@b.example, canary@b.example"}},
    "line end in an address": {"email": {**MAIL, "from": "a@b.example\nBcc: canary@b.example"}},
    "server that is not a host": {"email": {**MAIL, "host": "canary/host"}},
    "port out of range": {"email": {**MAIL, "port": 0}},
    "user without a password": {"email": {**MAIL, "user": "canary"}},
    "name of the setting": {"name": "CLEANROOM_NOTIFY", "webhook": HOOK},
}


def test_invalid_receivers_are_rejected_without_being_quoted(declared: Room) -> None:
    def is_rejected(_: str, wrong: dict[str, Any]) -> None:
        declared.raw["notices"] = [{"name": "n", **wrong}]
        with pytest.raises(CleanroomError, match="the notice '") as caught:
            declared.apply()
        assert "canary" not in str(caught.value)
        assert caught.value.remedy

    assert_each(is_rejected, WRONG.items())
    assert declared.catalog.notices.all() == ()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost/x"])
def test_plain_http_is_accepted_on_this_machine(declared: Room, url: str) -> None:
    declared.raw["notices"] = [{"name": "local", "webhook": {"url": url}}]
    assert notices_of(declared) == [("create", "local")]


def test_names_are_unique(declared: Room) -> None:
    declared.raw["notices"].append(NOTICES[0])
    with pytest.raises(UsageError, match=r"the notice '.*another entry has this name"):
        declared.apply()
