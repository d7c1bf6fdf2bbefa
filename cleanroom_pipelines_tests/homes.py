"""A home that was worked in, and what can be lost of it.

Lives here: filling a home without computing anything, and the faults that are injected into it.
Keep out: assertions.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import RECORDS, Cause, Kind, Version
from cleanroom_pipelines.catalog.database import VERSION_TABLE
from cleanroom_pipelines.runs.artifact_documents import write_documents
from cleanroom_pipelines.runs.building_lookalike import shared_metrics
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.work import Run, Work, working
from cleanroom_pipelines.storage import Home, Input
from cleanroom_pipelines_tests.runs import building
from cleanroom_pipelines_tests.runs.building import SEED, Inbox, parents_of

from .storage.auditing import lines_of

WITHIN = ("", "-wal", "-shm")
OUTPUT = "s3://audiences/x/1"
METRICS = {
    "recall_at": {"recall": 0.5, "type": "PERCENTAGE", "value": 5},
    "sizes": [{"type": "PERCENTAGE", "value": 5, "relevance": 0.9}],
    "n_users": 300,
    "warnings": [],
}


def finish_with_artifacts(installation: Installation, version: Version) -> None:
    """Do a pending version's work as a run does: claim, artifacts with their manifests, the end."""
    catalog, run = installation.catalog, Run("run", version.number)
    with working(installation, RECORDS[version.kind], version.resource_id, run) as held:
        assert isinstance(held, Work)
        parents = parents_of(catalog, version)
        inputs = tuple(
            Input(asset, parent.id, artifact, "d")
            for parent in parents
            for asset, artifact in catalog.resources.version(
                parent.kind, parent.id, parent.version
            ).artifacts.items()
        )
        for asset in ASSETS_OF[version.kind]:
            with held.drafting(asset, inputs, {}) as draft:
                documents = {"audience": {"metrics": METRICS}, "audience_export": {"export": {"url": OUTPUT}}}
                write_documents(draft.path, documents.get(asset, {"report": {"n": 1}}))
                draft.facts["inputs"] = {}
        if version.kind is Kind.EXPORT_JOB:
            catalog.work.publish_output(held.claim, OUTPUT)
        metrics = {"metrics": shared_metrics(METRICS)} if version.kind is Kind.GENERATION_JOB else {}
        held.finish("Made.", parents, **metrics)


def work(installation: Installation) -> int:
    """A day's work: a new version of the dataset and of what follows; gives how many versions were made."""
    (dataset, *_) = installation.catalog.resources.ids(Kind.TRAINING_DATASET)
    installation.catalog.work.request_version(Kind.TRAINING_DATASET, dataset, Cause.BY_HAND)
    return finish_pending(installation)


def finish_pending(installation: Installation) -> int:
    n_versions = 0
    while ready := installation.catalog.work.ready():
        finish_with_artifacts(installation, ready[0])
        n_versions += 1
    return n_versions


def fill(installation: Installation) -> None:
    """Leave in a home something of everything that an installation keeps; two jobs, one of them to be done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "finish_all", lambda _: finish_pending(installation))
        building.make_room(installation.catalog, declared=True)
    work(installation)
    (configured,) = installation.catalog.resources.iterate(Kind.CONFIGURED_AUDIENCE_MODEL)
    inbox = Inbox(installation, configured)
    inbox.drop("first.csv")
    inbox.register()
    finish_pending(installation)
    inbox.drop("second.csv", SEED + b"x\n")
    inbox.register()
    installation.uploads.seal("00ff00ff", [b"sealed until it is taken in"])
    installation.audit.write({"way": "cli", "operation": "delete", "outcome": "ok"})
    (installation.home.day_caches / "0123456789ab").mkdir(parents=True)
    (installation.home.day_caches / "0123456789ab" / "0.parquet").touch()


def listing(root: Path) -> dict[str, bytes | None]:
    """All files and folders of a home with their contents, but for the catalogue, scratch and locks."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
        if not path.name.startswith(("catalog.db", "audit.db-"))
        and not path.name.endswith(".lock")
        and "scratch" not in path.relative_to(root).parts
    }


def copy_catalog(home: Home, folder: Path) -> None:
    """Copy the catalogue's file and what SQLite keeps beside it."""
    folder.mkdir(exist_ok=True)
    for suffix in WITHIN:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(home.root / f"catalog.db{suffix}", folder / f"catalog.db{suffix}")


def replace_catalog(home: Home, folder: Path | None) -> None:
    """Put a copy of a catalogue in the place of the home's; None: nothing."""
    for suffix in WITHIN:
        (home.root / f"catalog.db{suffix}").unlink(missing_ok=True)
    if folder is not None:
        for path in folder.iterdir():
            shutil.copyfile(path, home.root / path.name)


def no_catalogue(installation: Installation, folder: Path) -> None:
    replace_catalog(installation.home, None)


def empty_file(installation: Installation, folder: Path) -> None:
    replace_catalog(installation.home, None)
    (installation.home.root / "catalog.db").touch()


def new_catalogue(installation: Installation, folder: Path) -> None:
    """The catalogue that opening a missing one creates."""
    other = Installation(Settings(folder / "new"))
    other.catalog.resources.ids(Kind.TRAINING_DATASET)
    with contextlib.closing(sqlite3.connect(other.home.root / "catalog.db")) as connection, connection:
        connection.execute("DELETE FROM installation")
    copy_catalog(other.home, folder / "copy")
    replace_catalog(installation.home, folder / "copy")


def older_copy(installation: Installation, folder: Path) -> None:
    copy_catalog(installation.home, folder / "older")
    work(installation)
    replace_catalog(installation.home, folder / "older")


def copy_before_a_deletion(installation: Installation, folder: Path) -> None:
    copy_catalog(installation.home, folder / "older")
    catalog = installation.catalog
    for job in catalog.resources.ids(Kind.GENERATION_JOB):
        catalog.deletion.request_delete(Kind.GENERATION_JOB, job)
        catalog.deletion.begin_delete(Kind.GENERATION_JOB, job)
        catalog.deletion.finish_delete(Kind.GENERATION_JOB, job)
    (configured,) = catalog.resources.ids(Kind.CONFIGURED_AUDIENCE_MODEL)
    catalog.deletion.request_delete(Kind.CONFIGURED_AUDIENCE_MODEL, configured)
    replace_catalog(installation.home, folder / "older")


def torn_log(installation: Installation, folder: Path) -> None:
    """What was committed is in SQLite's log, and the end of the log is not on the disk."""
    home = installation.home
    with contextlib.closing(sqlite3.connect(home.root / "catalog.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM resources").fetchone()  # keeps the log from being emptied
        work(installation)
        copy_catalog(home, folder / "torn")
    log = folder / "torn" / "catalog.db-wal"
    assert log.stat().st_size > 40_000
    os.truncate(log, log.stat().st_size // 2)
    (folder / "torn" / "catalog.db-shm").unlink()
    replace_catalog(home, folder / "torn")


def anothers_catalogue(installation: Installation, folder: Path) -> None:
    other = Installation(Settings(folder / "other", seed_floor=1))
    fill(other)
    for _ in range(5):
        work(other)
    copy_catalog(other.home, folder / "copy")
    replace_catalog(installation.home, folder / "copy")


def no_database(installation: Installation, folder: Path) -> None:
    replace_catalog(installation.home, None)
    (installation.home.root / "catalog.db").write_text("no database " * 1000)


def older_schema(installation: Installation, folder: Path) -> None:
    """A copy from before the upgrade, in a home that says which installation it is."""
    downgrade(installation.home)


def no_key(installation: Installation, folder: Path) -> None:
    installation.home.key_file.unlink()


def another_key(installation: Installation, folder: Path) -> None:
    installation.home.key_file.write_bytes(bytes(32))


def broken_key(installation: Installation, folder: Path) -> None:
    installation.home.key_file.write_bytes(b"short")


def broken_identity(installation: Installation, folder: Path) -> None:
    (installation.home.root / "installation.json").write_text("{")


def no_identity_and_no_catalogue(installation: Installation, folder: Path) -> None:
    no_identity(installation, folder)
    no_catalogue(installation, folder)


def no_identity_and_no_key(installation: Installation, folder: Path) -> None:
    no_identity(installation, folder)
    no_key(installation, folder)


def last_release_without_key(installation: Installation, folder: Path) -> None:
    last_release(installation, folder)
    no_key(installation, folder)


def last_release_without_catalogue(installation: Installation, folder: Path) -> None:
    last_release(installation, folder)
    no_catalogue(installation, folder)


def no_identity(installation: Installation, folder: Path) -> None:
    (installation.home.root / "installation.json").unlink()


def last_release(installation: Installation, folder: Path) -> None:
    """A home as the release before `installation.json` left it, which kept its audit log in a file."""
    no_identity(installation, folder)
    downgrade(installation.home)
    audit = installation.home.audit
    (audit / "audit.jsonl").write_bytes(b"".join(lines_of(audit)))
    for path in audit.glob("audit.db*"):
        path.unlink()


_BACK_TO_0003 = """
DROP TABLE challenges; DROP TABLE passkeys; DROP TABLE sessions; DROP TABLE sign_in_links;
DROP TABLE notice_outcomes; DROP TABLE notices;
DROP TABLE proposals; DROP TABLE ledger_lines; DROP TABLE pairs;
DROP TABLE tombstones; DROP TABLE installation;
ALTER TABLE users DROP COLUMN account_id; ALTER TABLE users DROP COLUMN is_operator;
ALTER TABLE users DROP COLUMN password; ALTER TABLE users DROP COLUMN organization;
ALTER TABLE accounts DROP COLUMN organization;
ALTER TABLE collaborations DROP COLUMN full_ensemble; ALTER TABLE collaborations DROP COLUMN seed_removed;
DROP INDEX ix_versions_started_at; DROP INDEX ix_resources_status;
DROP INDEX ix_generation_jobs_keep_seed_seed_location; DROP INDEX ix_generation_jobs_receipt_due;
ALTER TABLE generation_jobs DROP COLUMN receipt_due;
CREATE TABLE privacy_ledger (data_room_id VARCHAR(60) NOT NULL, participant_id VARCHAR(40) NOT NULL,
    question VARCHAR(64) NOT NULL, units INTEGER NOT NULL, created_at DATETIME NOT NULL,
    CONSTRAINT pk_privacy_ledger PRIMARY KEY (data_room_id, participant_id, question))
"""


def downgrade(home: Home) -> None:
    """Take the catalogue's schema back to that of the release before `installation.json`."""
    with contextlib.closing(sqlite3.connect(home.root / "catalog.db")) as connection, connection:
        for statement in (*_BACK_TO_0003.split(";"), f"UPDATE {VERSION_TABLE} SET version_num = '0003'"):
            connection.execute(statement)


Fault = Callable[[Installation, Path], None]
OF_THE_CATALOGUE: tuple[Fault, ...] = (
    no_catalogue,
    empty_file,
    new_catalogue,
    older_copy,
    copy_before_a_deletion,
    torn_log,
    anothers_catalogue,
    no_database,
    older_schema,
    broken_identity,
    no_identity_and_no_catalogue,
    last_release_without_catalogue,
)
REJECTED: tuple[Fault, ...] = (
    *OF_THE_CATALOGUE,
    no_key,
    another_key,
    broken_key,
    no_identity_and_no_key,
    last_release_without_key,
)
