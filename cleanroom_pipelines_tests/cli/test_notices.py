"""`cleanroom notice` lists, tests and deletes receivers; `cleanroom status` and the start page show their state.

Contract: a receiver that a test notice does not reach ends the command with 2; no address and no path of a URL is
shown.
"""

import json
import shlex
import sys
from pathlib import Path

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import Command, Mail, NoticeReceiver, Webhook
from cleanroom_pipelines.defs.start_page import page_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.situation import situation_of

from ..catalog.building import dataset_spec
from .commands import Commands


@pytest.fixture
def target(installation: Installation, tmp_path: Path) -> Path:
    """The file that a command appends its notices to; two other receivers cannot be reached."""
    path = tmp_path / "notices.jsonl"
    program = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"
    declare = installation.catalog.notices.declare_receiver
    declare(NoticeReceiver("file", Command(shlex.join([sys.executable, "-c", program, str(path)]))))
    declare(NoticeReceiver("unsigned", Webhook("https://hooks.example/canary-path", "MISSING")))
    declare(
        NoticeReceiver("mail", Mail("canary@a.example", "canary@b.example", "mail.example", 25, "u", "MISSING"))
    )
    return path


def test_test_notice_arrives(command: Commands, target: Path) -> None:
    ended = command("notice", "test", "file")
    assert (ended.code, ended.out, ended.err) == (0, "'file': arrived.\n", "")
    (notice,) = map(json.loads, target.read_text().splitlines())
    assert notice == {
        "id": "",
        "kind": "test",
        "status": "TEST",
        "status_code": "",
        "text": "This is a test notice of the clean room.",
        "version": "",
    }


def test_failed_test_ends_with_2_and_is_shown(command: Commands, installation: Installation, target: Path) -> None:
    installation.catalog.resources.create(dataset_spec("Events"))
    ended = command("notice", "test")
    assert ended.code == 2
    assert "2 of 3 test notices did not arrive." in ended.err
    assert "'unsigned': not arrived (CLEANROOM_SECRET_MISSING is not set)." in ended.out
    listed = command("notice", "list")
    states = {each["name"]: each["arrived"] for each in json.loads(command("notice", "list", "--json").out)}
    assert states == {"file": True, "unsigned": False, "mail": False}
    status = command("status").out
    assert "notices: file (command): the last notice arrived at " in status
    assert "cleanroom notice test unsigned" in status
    assert "a notice did not arrive" in status.splitlines()[1]
    page = page_of(situation_of(installation))["notices"]
    assert isinstance(page, dg.MarkdownMetadataValue)
    assert page.value is not None
    assert page.value.count("did not arrive") == 2
    for shown in (listed.out, ended.out, ended.err, status, page.value):
        assert "canary" not in shown


def test_unknown_receiver(command: Commands, target: Path) -> None:
    for words in (("test", "other"), ("delete", "other")):
        ended = command("notice", *words)
        assert ended.code == 2
        assert "Give the name of a declared receiver." in ended.err


def test_deleted_receiver_gets_nothing(command: Commands, target: Path) -> None:
    assert command("notice", "delete", "file").code == 0
    assert command("notice", "test", "file").code == 2
    assert not target.exists()


def test_no_receivers(command: Commands, installation: Installation) -> None:
    _ = installation.catalog  # to read creates no home
    assert command("notice", "list").out.startswith("No receivers yet.")
    assert command("notice", "test").code == 2
