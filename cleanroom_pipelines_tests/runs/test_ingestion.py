"""Contract: exactly the named file is ingested. A dropped file that a process is still writing is left alone. A
copy is ingested, whose digest is checked whenever it is opened; a file that replaced the copied one is another
drop. Tested for seeds, for the files of rooms, and for uploads in the vault. A room's drop that is interrupted at
any point provisions its room once."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest

from cleanroom_pipelines.catalog import DataRoom, GenerationJob, Kind, Upload
from cleanroom_pipelines.catalog.rooms import Rooms
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.errors import ConfigurationError, SeedError
from cleanroom_pipelines.runs.building_lookalike import build_seed_validation_report
from cleanroom_pipelines.runs.building_rooms import build_room_asset
from cleanroom_pipelines.runs.dagster_home import load_repository
from cleanroom_pipelines.runs.drops import StillWrittenError
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.room_inbox import find_room_drops, make_room_inbox, provision_drop
from cleanroom_pipelines.runs.seeds import start_job_from_file
from cleanroom_pipelines.runs.work import Run, Work, holding_for_run, working
from cleanroom_pipelines.storage import ArtifactReference, SeedVault, artifacts, open_files
from cleanroom_pipelines.storage.audit import AuditLog
from cleanroom_pipelines.storage.vault import Vault

from .. import worlds
from ..conftest import StandingClock
from .building import Inbox, make_room, write_artifact
from .delivery_worlds import make_data_room

FIRST = b"user_id\n" + b"".join(b"user-%02d\n" % number for number in range(30))
REST = b"".join(b"user-%02d\n" % number for number in range(30, 80))
OTHER = b"user_id\nsomebody else\n"

# --- Seeds ---


@pytest.fixture
def inbox(installation: Installation) -> Inbox:
    return Inbox(installation, make_room(installation.catalog))


def the_seed(inbox: Inbox, job: object) -> bytes:
    with inbox.installation.vault.opening(job.seed_location, job.seed_digest) as path:
        return path.read_bytes()


def test_pausing_writer_is_waited_for(inbox: Inbox) -> None:
    path = inbox.drop(content=b"")
    with path.open("ab", buffering=0) as writer:
        writer.write(FIRST)
        (drop,) = inbox.drops()
        assert inbox.drops() == [drop], "it looks complete"
        with pytest.raises(StillWrittenError):
            inbox.register()
        assert (inbox.jobs(), inbox.lying(), inbox.seeds()) == ([], ["members.csv"], [])
        writer.write(REST)
    (job,) = inbox.register()
    assert the_seed(inbox, job) == FIRST + REST
    assert inbox.lying() == []


def test_writer_in_another_process_is_waited_for(inbox: Inbox) -> None:
    path = inbox.drop(content=FIRST)
    program = "import sys; f = open(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(StillWrittenError):
            inbox.register()
        writer.communicate()
    assert len(inbox.register()) == len(inbox.jobs()) == 1


def test_reader_does_not_block_ingestion(inbox: Inbox) -> None:
    with inbox.drop(content=FIRST).open("rb"):
        (job,) = inbox.register()
    assert the_seed(inbox, job) == FIRST


def rewrite(path: Path) -> None:
    path.write_bytes(OTHER)


def replace(path: Path) -> None:
    beside = path.with_name(".beside")
    beside.write_bytes(OTHER)
    beside.rename(path)


def append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(REST)


CHANGES = pytest.mark.parametrize("change", [rewrite, replace, append])


def after(owner: object, name: str, action: Callable[[], object]) -> mock._patch:
    """Do something once, after a call."""
    call, left = getattr(owner, name), [action]

    def hooked(*arguments: object, **options: object) -> object:
        found = call(*arguments, **options)
        if left:
            left.pop()()
        return found

    return mock.patch.object(owner, name, hooked)


@CHANGES
def test_file_changed_while_copied_is_not_ingested(inbox: Inbox, change: Callable[[Path], None]) -> None:
    path = inbox.drop(content=FIRST)
    with after(shutil, "copyfile", lambda: change(path)), pytest.raises(StillWrittenError):
        inbox.register()
    assert (inbox.jobs(), inbox.seeds()) == ([], [])
    assert list(inbox.installation.home.scratch.iterdir()) == []
    (job,) = inbox.register()
    assert the_seed(inbox, job) == (FIRST + REST if change is append else OTHER)


@CHANGES
@pytest.mark.parametrize("step", [(SeedVault, "digest"), (SeedVault, "put")])
def test_file_changed_after_copying_is_another_drop(
    inbox: Inbox, change: Callable[[Path], None], step: tuple[object, str]
) -> None:
    path = inbox.drop(content=FIRST)
    with after(*step, lambda: change(path)):
        (first,) = inbox.register()
    assert the_seed(inbox, first) == FIRST
    assert inbox.lying() == ["members.csv"], "it is not deleted unread"
    (second,) = inbox.register()
    assert second.id != first.id
    assert the_seed(inbox, second) == (FIRST + REST if change is append else OTHER)
    assert inbox.lying() == []


def test_open_handle_on_a_drop_does_not_reach_the_vault(inbox: Inbox) -> None:
    path = inbox.drop(content=FIRST)
    opened = None

    def open_it() -> None:
        nonlocal opened
        opened = path.open("ab", buffering=0)

    with after(SeedVault, "put", open_it):
        (job,) = inbox.register()
    assert opened is not None
    with opened:
        opened.write(REST)
    assert the_seed(inbox, job) == FIRST


@pytest.mark.parametrize("damage", [append, rewrite, lambda path: path.write_bytes(FIRST[:-1])])
def test_seed_altered_in_the_vault_is_not_used(inbox: Inbox, damage: Callable[[Path], None]) -> None:
    inbox.drop(content=FIRST)
    (job,) = inbox.register()
    damage(inbox.installation.home.seeds / job.seed_location)
    with pytest.raises(SeedError, match="was altered"):
        build_seed_validation_report(inbox.installation, job.id, Run("run", 1))
    version = inbox.newest(job)
    assert (version.status, version.status_code) == ("CREATE_FAILED", "SEED_INVALID")


def test_swapped_seed_of_another_job_is_not_used(installation: Installation, tmp_path: Path) -> None:
    vault, places = installation.vault, {}
    for slot, content in (("00000000", FIRST), ("11111111", OTHER)):
        file = tmp_path / "seed.csv"
        file.write_bytes(content)
        places[slot] = (vault.put(slot, file), vault.digest(file))
    (location, digest), (other, _) = places.values()
    shutil.copyfile(installation.home.seeds / other, installation.home.seeds / location)
    with pytest.raises(SeedError, match="was altered"), vault.opening(location, digest):
        pytest.fail("opened")
    assert list(installation.home.scratch.iterdir()) == []


def test_file_changed_while_stored_is_rejected(installation: Installation, tmp_path: Path) -> None:
    file = tmp_path / "seed.csv"
    file.write_bytes(FIRST)
    digest = installation.vault.digest(file)
    append(file)
    with pytest.raises(SeedError, match="changed while"):
        installation.vault.put("00000000", file, digest=digest)
    assert list(installation.home.seeds.iterdir()) == []


def test_job_from_a_changing_file_is_not_started(inbox: Inbox, tmp_path: Path) -> None:
    seed = tmp_path / "seed.csv"
    seed.write_bytes(FIRST)
    with after(SeedVault, "digest", lambda: append(seed)), pytest.raises(SeedError, match="changed while"):
        start_job_from_file(inbox.installation, configured=inbox.configured.id, seed=seed, name="Loyal")
    assert (inbox.jobs(), inbox.seeds()) == ([], [])


# --- Who has a file open ---


@pytest.fixture
def without_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no leases, as those of networks."""
    call = fcntl.fcntl

    def without_lease(descriptor: int, command: int, argument: object = 0) -> object:
        if command == fcntl.F_SETLEASE:
            raise OSError(22, os.strerror(22))
        return call(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", without_lease)
    monkeypatch.setattr(open_files, "QUIET_SECONDS", 60.0)


@pytest.mark.usefixtures("without_leases")
def test_open_files_are_checked_without_kernel_leases(inbox: Inbox, clock: StandingClock) -> None:
    path = inbox.drop(content=FIRST)
    os.utime(path, (0, 0))
    for mode in ("ab", "r+b"):
        with path.open(mode), pytest.raises(StillWrittenError):
            inbox.register()
    with path.open("rb"):
        assert len(inbox.register()) == len(inbox.jobs()) == 1


@pytest.mark.usefixtures("without_leases")
def test_file_must_be_unchanged_for_a_minute_if_writers_are_unknown(inbox: Inbox, clock: StandingClock) -> None:
    path = inbox.drop(content=FIRST)
    changed = clock.now.timestamp()
    os.utime(path, (changed, changed))
    for seconds in (0, 59):
        clock.turn(seconds=seconds)
        with pytest.raises(StillWrittenError):
            inbox.register()
    clock.turn(seconds=2)
    assert len(inbox.register()) == len(inbox.jobs()) == 1


def test_system_without_leases_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    monkeypatch.setattr(open_files, "QUIET_SECONDS", 60.0)
    path = tmp_path / "seed.csv"
    path.touch()
    changed = path.stat().st_mtime
    assert open_files.may_still_be_written(path, changed + 59)
    assert not open_files.may_still_be_written(path, changed + 61)


def test_opening_a_file_during_the_check_kills_no_process(tmp_path: Path) -> None:
    """A broken lease sends a signal that by default ends the process."""
    path = tmp_path / "seed.csv"
    path.touch()
    call, opened = fcntl.fcntl, []

    def meanwhile(descriptor: int, command: int, argument: object = 0) -> object:
        if command == fcntl.F_SETLEASE and argument == fcntl.F_UNLCK:
            program = "import os, sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)"
            opened.append(subprocess.run([sys.executable, "-c", program, str(path)], check=False))
        return call(descriptor, command, argument)

    with mock.patch.object(fcntl, "fcntl", meanwhile):
        assert not open_files.may_still_be_written(path, 0)
    assert len(opened) == 1


# --- Rooms ---


@pytest.fixture
def room(installation: Installation) -> DataRoom:
    record = make_data_room(installation.catalog)
    make_room_inbox(installation, record)
    return record


def drop_at(installation: Installation, room: DataRoom, content: bytes, dataset: str = "matching") -> Path:
    path = folder_of(installation, room) / dataset / "file.csv"
    path.write_bytes(content)
    return path


def provision(installation: Installation) -> None:
    for drop in find_room_drops(installation):
        provision_drop(installation, drop)


def provisioned(installation: Installation, room: DataRoom) -> list[tuple[str, bytes]]:
    """What the room names, and the content that is sealed for it."""
    found = []
    for dataset, upload_id in sorted(installation.catalog.get(DataRoom, room.id).inputs.items()):
        upload = installation.catalog.rooms.upload(upload_id)
        with installation.uploads.opening(upload.location, upload.digest) as path:
            found.append((dataset, path.read_bytes()))
    return found


def test_room_waits_for_a_pausing_writer(installation: Installation, room: DataRoom) -> None:
    path = drop_at(installation, room, FIRST)
    with path.open("ab", buffering=0) as writer:
        with pytest.raises(StillWrittenError):
            provision(installation)
        assert provisioned(installation, room) == []
        writer.write(REST)
    provision(installation)
    assert provisioned(installation, room) == [("matching:EMAIL", FIRST + REST)]
    assert not path.exists()


@CHANGES
def test_room_does_not_ingest_a_changing_file(
    installation: Installation, room: DataRoom, change: Callable[[Path], None]
) -> None:
    path = drop_at(installation, room, FIRST)
    with after(Vault, "seal", lambda: change(path)), pytest.raises(StillWrittenError):
        provision(installation)
    assert provisioned(installation, room) == []
    assert installation.uploads.locations() == frozenset()
    provision(installation)
    ((_, content),) = provisioned(installation, room)
    assert content == (FIRST + REST if change is append else OTHER)


@CHANGES
def test_file_written_after_ingestion_is_another_drop(
    installation: Installation, room: DataRoom, change: Callable[[Path], None]
) -> None:
    path = drop_at(installation, room, FIRST)
    with after(Rooms, "provision", lambda: change(path)):
        provision(installation)
    assert provisioned(installation, room) == [("matching:EMAIL", FIRST)]
    assert path.exists()
    provision(installation)
    ((_, content),) = provisioned(installation, room)
    assert content == (FIRST + REST if change is append else OTHER)


STEPS = [
    (Vault, "seal"),
    (Rooms, "add_upload"),
    (AuditLog, "write"),
    (Rooms, "provision"),
]


class CutOffError(BaseException):
    """Ends the process, as far as a test can."""


@pytest.mark.parametrize("comes", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS)
def test_interrupted_drop_provisions_its_room_once(
    installation: Installation, room: DataRoom, owner: object, name: str, comes: str
) -> None:
    path = drop_at(installation, room, FIRST)
    step = getattr(owner, name)

    def cut(*arguments: object, **options: object) -> None:
        if comes == "after":
            step(*arguments, **options)
        raise CutOffError

    with mock.patch.object(owner, name, cut), pytest.raises(CutOffError):
        provision(installation)
    assert path.exists()
    provision(installation)
    assert provisioned(installation, room) == [("matching:EMAIL", FIRST)]
    assert not path.exists()
    assert len(installation.uploads.locations()) == len(installation.catalog.rooms.uploads()) == 1
    assert len(installation.catalog.resources.versions(Kind.DATA_ROOM, room.id)) == 2


def test_same_content_dropped_later_provisions_again(installation: Installation, room: DataRoom) -> None:
    """As whoever wants another attempt does."""
    for _ in range(2):
        drop_at(installation, room, FIRST)
        provision(installation)
    assert len(installation.catalog.rooms.uploads()) == 2


def test_drop_is_ingested_again_if_its_upload_expired_unused(installation: Installation, room: DataRoom) -> None:
    path = drop_at(installation, room, FIRST)
    with after(Rooms, "add_upload", interrupt), pytest.raises(CutOffError):
        provision(installation)
    (upload,) = installation.catalog.rooms.uploads()
    installation.uploads.delete(upload.location)  # what retention does after a day
    installation.catalog.rooms.forget_upload(upload.id)
    provision(installation)
    assert provisioned(installation, room) == [("matching:EMAIL", FIRST)]
    assert not path.exists()


def interrupt() -> None:
    raise CutOffError


def test_swapped_upload_is_not_ingested(installation: Installation, room: DataRoom) -> None:
    """Sealed and whole, but not what the catalogue names."""

    def upload_of(content: bytes) -> Upload:
        sealed = installation.uploads.seal(installation.token_hex(16), [content])
        return installation.catalog.rooms.add_upload(
            sealed.location,
            room.owner_email,
            "file",
            n_bytes=sealed.n_bytes,
            digest=sealed.digest,
            matching_id="EMAIL",
            location=sealed.location,
        )

    wanted, other = upload_of(FIRST), upload_of(OTHER)
    uploads = installation.home.uploads
    shutil.copyfile(uploads / str(other.location), uploads / str(wanted.location))
    version = installation.catalog.rooms.provision(room.id, {"matching:EMAIL": wanted.id})
    with pytest.raises(ConfigurationError, match="replaced"):
        build_room_asset(installation, room.id, Run("run", version.number), asset="base_audience", finishes=True)
    assert list(installation.home.scratch.iterdir()) == []


# --- The sensors ---


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with worlds.dagster_at(tmp_path / "dagster", one_file=True) as opened:
        yield opened


@pytest.mark.parametrize("sensor", ["seed_inbox", "room_inbox"])
def test_sensor_skips_a_file_that_is_held_open(
    home: object, installation: Installation, room: DataRoom, instance: dg.DagsterInstance, sensor: str
) -> None:
    inbox = Inbox(installation, make_room(installation.catalog))
    path = inbox.drop(content=FIRST) if sensor == "seed_inbox" else drop_at(installation, room, FIRST)
    with worlds.installed(installation.settings.home):
        loaded, cursor, told = load_repository(), None, list[str]()

        def tick() -> None:
            nonlocal cursor
            with dg.build_sensor_context(
                instance=instance,
                cursor=cursor,
                repository_def=loaded,
                resources={"installation": InstallationResource()},
            ) as context:
                ticked = loaded.get_sensor_def(sensor).evaluate_tick(context)
            cursor = ticked.cursor
            told.append(str(ticked.skip_message))

        with path.open("ab", buffering=0) as writer:
            for _ in range(3):
                tick()
            assert path.exists()
            assert told[0] == told[1] == told[2]
            assert "1 may still be incomplete" in told[2]
            writer.write(REST)
        tick()
        assert path.exists(), "it has changed since the tick before"
        tick()
        assert not path.exists()


def test_run_verifies_its_inputs_once(inbox: Inbox) -> None:
    installation = inbox.installation
    version = write_artifact(installation, "audience_model", "model-0123456789ab", 1, report={"n": 1})
    reference = ArtifactReference("audience_model", "model-0123456789ab", version)
    inbox.drop()
    (job,) = inbox.register()
    run = Run("run", 1)
    with (
        mock.patch.object(artifacts, "_verify", wraps=artifacts._verify) as verify,
        holding_for_run(installation, Kind.GENERATION_JOB, job.id, run),
    ):
        for _ in range(2):
            with working(installation, GenerationJob, job.id, run) as work:
                assert isinstance(work, Work)
                with work.opening_input(reference) as folder:
                    assert (folder / "report.json").is_file()
    assert verify.call_count == 1
