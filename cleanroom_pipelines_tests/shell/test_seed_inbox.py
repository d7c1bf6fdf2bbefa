"""A seed put into the inbox becomes an export and a result file (receipt), without a click.

Contract: the first tick records the files, the second ingests those that have not changed; a growing file is left
alone; the cursor contains only files that are not ingested yet; the same content twice is one job; the receipt in
accepted/ or rejected/ has the result and the report, without ids; file and seed are deleted.
"""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.catalog import GenerationJob, Kind, Origin
from cleanroom_pipelines.runs.inbox_folders import folder_of

from .. import damaged, worlds
from .conftest import Shell
from .ticks import tick


def inbox_of(shell: Shell) -> Path:
    folder = folder_of(shell.installation, worlds.the(shell.installation, Kind.CONFIGURED_AUDIENCE_MODEL))
    assert folder.is_dir(), "the configured model made its own inbox"
    return folder


def drops_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def receipts_in(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text())


def jobs(shell: Shell) -> list[GenerationJob]:
    return list(shell.installation.catalog.resources.iterate(Kind.GENERATION_JOB))  # type: ignore[arg-type]


def test_empty_inbox(trained: Shell) -> None:
    found = tick(trained, "seed_inbox")
    assert (found.skip_message, json.loads(found.cursor)) == ("The inbox is empty.", {})


def test_second_tick_ingests_an_unchanged_file(trained: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    folder = inbox_of(trained)
    worlds.write_seed(folder / "spring customers.jsonl", trained.world.seed_users)
    first = tick(trained, "seed_inbox")
    assert drops_in(folder) == ["spring customers.jsonl"]
    assert jobs(trained) == []
    second = tick(trained, "seed_inbox", cursor=first.cursor)
    assert second.skip_message == "Files in the inbox: 1 accepted."
    assert second.skip_message in capsys.readouterr().err, "the page of the tick shows its log"
    assert drops_in(folder) == []
    (job,) = jobs(trained)
    assert (job.origin, job.export_size) == (Origin.INBOX, "largest")
    assert job.name.startswith("spring customers")
    assert json.loads(second.cursor) == {}, "what is taken needs no memory"


def test_growing_file_is_skipped_until_unchanged(trained: Shell) -> None:
    folder, cursor = inbox_of(trained), None
    path = folder / "seed.csv"
    path.write_text("user_id\n")
    for who in trained.world.seed_users[:6]:
        with path.open("a") as stream:
            stream.write(f"{who}\n")
        cursor = tick(trained, "seed_inbox", cursor=cursor).cursor
        assert jobs(trained) == []
    os.utime(path, ns=(1, 1))  # the same size with another time may be another content
    cursor = tick(trained, "seed_inbox", cursor=cursor).cursor
    assert jobs(trained) == []
    tick(trained, "seed_inbox", cursor=cursor)
    assert len(jobs(trained)) == 1


def test_cursor_stays_small(trained: Shell) -> None:
    folder = inbox_of(trained)
    for number in range(30):
        worlds.write_seed(folder / f"{'long name ' * 15}{number}.jsonl", trained.world.group[number : number + 30])
    first = tick(trained, "seed_inbox")
    assert len(first.cursor) < 30 * 80
    assert str(folder) not in first.cursor
    assert len(tick(trained, "seed_inbox", cursor=first.cursor).cursor) < 10
    assert len(jobs(trained)) == 30


def test_drop_is_exported_with_a_receipt(trained: Shell) -> None:
    folder = inbox_of(trained)
    worlds.write_seed(folder / "seed.jsonl", trained.world.seed_users)
    cursor = tick(trained, "seed_inbox").cursor
    tick(trained, "seed_inbox", cursor=cursor)
    assert trained.run_pending() == 2
    (job,) = jobs(trained)
    (receipt,) = receipts_in(folder / "accepted")
    assert (receipt["job"], receipt["status"], receipt["statusCode"]) == (job.id, "ACTIVE", None)
    assert receipt["message"].startswith("Finds ")
    assert receipt["report"]["report"]["numRowsTotal"] == worlds.N_SEED
    export = worlds.the(trained.installation, Kind.EXPORT_JOB)
    assert receipt["exports"] == [export.output_location]  # type: ignore[union-attr]
    assert str(export.size) == "20%"  # type: ignore[union-attr]
    assert not any(who in json.dumps(receipt) for who in trained.world.group)
    assert not (folder / "rejected").exists() or not any((folder / "rejected").iterdir())
    assert not any(path.is_file() for path in trained.installation.home.seeds.rglob("*"))

    # the same content again is the same job
    worlds.write_seed(folder / "again.jsonl", trained.world.seed_users)
    cursor = tick(trained, "seed_inbox").cursor
    tick(trained, "seed_inbox", cursor=cursor)
    assert drops_in(folder) == []
    assert len(jobs(trained)) == 1
    assert trained.run_pending() == 0
    assert len(list(receipts_in(folder / "accepted"))) == 1


LONG = "user_id\n" + "".join(f"{worlds.user(number)}\n" for number in range(worlds.N_GROUP))


BAD_DROPS: dict[str, tuple[str | bytes, str]] = {
    "empty.jsonl": ("", "SEED_INVALID"),
    "empty.csv": ("user_id\n", "SEED_INVALID"),
    "few.csv": ("user_id\n" + "".join(f"user-{n:04d}\n" for n in range(24)), "SEED_TOO_SMALL"),
    "strangers.csv": ("user_id\n" + "".join(f"nobody-{n}\n" for n in range(40)), "INSUFFICIENT_MATCHING_SEED"),
    "broken.parquet": ("no parquet", "SEED_INVALID"),
    "notes.docx": ("hello", "SEED_INVALID"),
    "damaged.csv.gz": (damaged.GZIPS["shorter than it says"](LONG.encode()), "SEED_INVALID"),
    # members of a gzip may follow one another: 2 MB that hold 310 MB
    "bomb.csv.gz": (gzip.compress(b"user_id\n") + gzip.compress(b"nobody\n" * 150_000) * 296, "SEED_TOO_LARGE"),
    "quote.csv": (damaged.with_open_quote(LONG.encode()), "SEED_INVALID"),
}


def test_bad_drops_are_rejected_with_their_reasons(trained: Shell) -> None:
    folder, name_of = inbox_of(trained), dict[str, str]()
    for name, (content, _) in BAD_DROPS.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        name_of[trained.installation.vault.digest(folder / name)] = name
    cursor = tick(trained, "seed_inbox").cursor
    tick(trained, "seed_inbox", cursor=cursor)
    for job in jobs(trained)[1:]:
        trained.make("seed_validation_report", job.id)
    assert trained.run_pending() == 1
    assert drops_in(folder) == []
    receipts = list(receipts_in(folder / "rejected"))
    assert {receipt["file"]: receipt["statusCode"] for receipt in receipts} == {
        name: code for name, (_, code) in BAD_DROPS.items()
    }
    assert all(name_of[receipt["seed"]["digest"]] == receipt["file"] for receipt in receipts)
    assert len(receipts) == len(BAD_DROPS)
    root = trained.installation.home.scratch_root
    left = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    assert [path for path in left if not path.parts[0].startswith(".")] == [], "but marks of live processes"
    for receipt in receipts:
        assert receipt["status"] == "CREATE_FAILED"
        assert receipt["message"]
    assert not (folder / "accepted").exists() or not any((folder / "accepted").iterdir())
    assert not any(path.is_file() for path in trained.installation.home.seeds.rglob("*"))
    assert list(trained.installation.catalog.resources.iterate(Kind.EXPORT_JOB)) == []


def test_unreadable_drop_does_not_block_the_others(trained: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanroom_pipelines.errors import StorageFullError
    from cleanroom_pipelines.storage import SeedVault

    folder, put = inbox_of(trained), SeedVault.put
    worlds.write_seed(folder / "a.jsonl", trained.world.group[:30])
    worlds.write_seed(folder / "b.jsonl", trained.world.group[1:31])

    def full_for_the_first(self: SeedVault, slot: str, file: Path, **options: bool) -> str:
        if trained.world.group[0] in file.read_text():
            raise StorageFullError("The disk is full.")
        return put(self, slot, file, **options)

    monkeypatch.setattr(SeedVault, "put", full_for_the_first)
    cursor = tick(trained, "seed_inbox").cursor
    cursor = tick(trained, "seed_inbox", cursor=cursor).cursor
    assert drops_in(folder) == ["a.jsonl"]
    assert len(jobs(trained)) == 1
    monkeypatch.setattr(SeedVault, "put", put)
    tick(trained, "seed_inbox", cursor=cursor)
    assert drops_in(folder) == []
    assert len(jobs(trained)) == 2
