"""Many seeds put into the inbox at once are all exported, once each.

Contract: a hundred seeds are done within ten minutes. The test uses forty, which is enough: workers do all work
beyond two versions. The time is printed but not asserted, because it depends on other load of the machine. A real
webserver, daemon and code server run, as `cleanroom dev` starts them, and no one clicks. All processes end with
the test.
"""

import random
import time
from pathlib import Path

import psutil
import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.building_lookalike import verify_exported_files
from cleanroom_pipelines.runs.drops import ACCEPTED, REJECTED
from cleanroom_pipelines.runs.inbox_folders import folder_of

from .. import worlds
from .developing import dagster_dev, keep_no_output

pytestmark = pytest.mark.slow

# So long that only a standstill is meant: where two cores do much else beside, it has taken half an hour.
N_FILES, SECONDS = 40, 3_600


def test_many_files_at_once(
    world: worlds.World, trained_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, dice = trained_home, random.Random(3)
    keep_no_output(home / "dagster_home")
    with worlds.installed(home) as installation:
        configured = worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        inbox = folder_of(installation, configured)
        (tmp_path / "drops").mkdir()
        before = {process.pid for process in psutil.process_iter()}

        with dagster_dev(home, worlds.settings(home), tmp_path / "dev.log"):
            begun = time.monotonic()
            for number in range(N_FILES):
                drop = worlds.write_seed(tmp_path / "drops" / f"{number}.csv", dice.sample(world.group, 40))
                drop.rename(inbox / f"customers {number}.csv")
            worlds.wait_until(
                lambda: len(list((inbox / ACCEPTED).glob("*.json"))) == N_FILES,
                seconds=SECONDS,
                what="all receipts",
                every=1,
            )
            seconds = time.monotonic() - begun
        with capsys.disabled():
            # what was measured
            print(f"\n{N_FILES} dropped seeds were exported in {seconds:.0f} s.")  # noqa: T201

        assert [path for path in inbox.iterdir() if path.is_file()] == []
        assert not (inbox / REJECTED).exists() or not list((inbox / REJECTED).iterdir())
        jobs = list(installation.catalog.resources.iterate(Kind.GENERATION_JOB))
        exports = list(installation.catalog.resources.iterate(Kind.EXPORT_JOB))
        assert len(jobs) == N_FILES
        assert sorted(export.parent_id for export in exports) == sorted(job.id for job in jobs)
        for record in (*jobs, *exports):
            (version,) = installation.catalog.resources.versions(record.kind, record.id)
            assert version.status == "ACTIVE"
        for export in exports:
            manifest, _ = newest_artifact(installation, Kind.EXPORT_JOB, export.id, "audience_export")
            assert verify_exported_files(installation, export.id, manifest) == worlds.N_USERS // 5
        with worlds.dagster_at_home(installation) as instance:
            for asset in ("seed_validation_report", "audience", "audience_export"):
                made = [one.partition for one in worlds.materializations(instance, asset)]
                assert len(made) == len(set(made)) == N_FILES, f"{asset} was made once each"
        ours = [
            process for process in psutil.process_iter() if process.pid not in before and mentions(process, home)
        ]
        assert ours == [], "every process ended"


def mentions(process: psutil.Process, home: Path) -> bool:
    try:
        return any(str(home) in word for word in (*process.cmdline(), *process.environ().values()))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
