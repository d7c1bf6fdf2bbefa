"""The commands `cleanroom audit verify` and `cleanroom audit show`.

Contract: `verify` exits with 0 and prints the head to keep, or exits with 2 and reports where the log was changed;
`show` prints entries, but never the raw text of a forged entry.
"""

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner, Result

from cleanroom_pipelines.cli.auditing import audit
from cleanroom_pipelines.errors import InputError, UsageError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage.audit import AuditLog

from ..cases import assert_each
from ..storage.auditing import lines_of, put_lines

A, B = "111122223333", "444455556666"


@pytest.fixture
def log(installation: Installation) -> AuditLog:
    times = iter(datetime(2026, 3, day, 12, tzinfo=UTC) for day in range(1, 28))
    log = AuditLog(installation.home.audit, installation.key, lambda: next(times))
    for account in (A, B, A):
        log.write({"way": "api", "operation": "DeleteAudienceModel", "account": account, "resource": "model-1"})
    log.close()
    return log


def run(*arguments: str) -> Result:
    return CliRunner().invoke(audit, arguments)


def test_intact_log(log: AuditLog) -> None:
    ended = run("verify")
    assert ended.exit_code == 0
    assert "3 entries" in ended.output
    head = ended.output.split()[-1]
    assert head == str(log.verify().head)
    assert run("verify", "--expect", head).exit_code == 0
    assert json.loads(run("verify", "--json", "--expect", head).output) == {
        "ok": True,
        "n_entries": 3,
        "problem": None,
        "at": None,
        "cut_off": [],
        "head": head,
    }


def test_empty_log(installation: Installation) -> None:
    _ = installation.catalog  # to read creates no home
    assert run("verify").output == "The audit log is intact: 0 entries.\n"
    assert json.loads(run("verify", "--json").output)["head"] is None
    assert run("show").output == ""
    assert json.loads(run("show", "--json").output) == []


def test_changed_log(log: AuditLog, installation: Installation) -> None:
    folder = installation.home.audit
    put_lines(folder, [line.replace(B.encode(), A.encode()) for line in lines_of(folder)])
    ended = run("verify")
    assert isinstance(ended.exception, InputError), "which the command turns into a sentence and exit code 2"
    assert str(ended.exception).startswith("Entry 2 was altered or inserted. ")
    ended = run("verify", "--json")
    assert ended.exit_code == 2
    verdict = json.loads(ended.output)
    assert (verdict["ok"], verdict["at"], verdict["n_entries"]) == (False, 2, 1)


def test_log_truncated_with_its_heads(log: AuditLog, installation: Installation) -> None:
    head = str(log.verify().head)
    heads = installation.home.audit / "audit.head"
    heads.write_text("".join(heads.read_text().splitlines(keepends=True)[:2]))
    put_lines(installation.home.audit, lines_of(installation.home.audit)[:2])
    assert run("verify").exit_code == 0
    assert isinstance(run("verify", "--expect", head).exception, InputError)


def test_append_interrupted_before_the_table(log: AuditLog, installation: Installation) -> None:
    folder = installation.home.audit
    (folder / "audit.jsonl").write_bytes(b"".join([*lines_of(folder), b'{"sequence":4,']))
    (folder / "audit.db").unlink()
    ended = run("verify")
    assert ended.exit_code == 0
    assert "A kill or power cut interrupted the write before entry 4" in ended.output


def test_wrong_usage_is_reported(installation: Installation) -> None:
    def is_reported(*arguments: str) -> None:
        assert isinstance(run(*arguments).exception, UsageError)

    assert_each(is_reported, [("verify", "--expect", "7"), ("show", "--since", "yesterday")])


def test_shown_entries(log: AuditLog) -> None:
    def is_shown(arguments: tuple[str, ...], sequences: list[int]) -> None:
        shown = json.loads(run("show", "--json", *arguments).output)
        assert [entry["sequence"] for entry in shown] == sequences
        lines = run("show", *arguments).output.splitlines()
        assert [line.split("  ")[0] for line in lines] == [f"2026-03-0{day}T12:00:00.000Z" for day in sequences]
        assert all("DeleteAudienceModel" in line and "model-1" in line for line in lines)

    assert_each(
        is_shown,
        [
            ((), [1, 2, 3]),
            (("--account", A), [1, 3]),
            (("--since", "2026-03-02"), [2, 3]),
            (("--since", "2026-03-02T12:00:00Z"), [2, 3]),
            (("--since", "2026-03-02T14:00:01+02:00"), [3]),
            (("--account", B, "--since", "2026-03-03"), []),
        ],
    )


def test_forged_text_is_escaped_on_the_terminal(log: AuditLog, installation: Installation) -> None:
    forged = b'{"operation":"\\u001b[2Jhidden\\nline","way":["\\u009b"],"time":7}\n'
    put_lines(installation.home.audit, [*lines_of(installation.home.audit), forged, b"[]\n"])
    ended = run("show")
    assert ended.exit_code == 0
    assert len(ended.output.splitlines()) == 4
    assert all(character.isprintable() or character == "\n" for character in ended.output)
