"""Twelve faults, and what an operator then sees and clicks in Dagster's UI, with a real daemon and Chromium.

    python -m cleanroom_pipelines_tests.shell.faults [FAULT]... [--pictures FOLDER]

After each fault, the reason is on the start page, on the page of a failed partition's events, and on the page of
its run; nothing that failed is shown as materialised; and the click that the start page names repairs it. It takes
a quarter of an hour, and needs Chromium, chromedriver and the right to mount a small disk. It ends with the first
page that shows something else.

Lives here: the faults, and looking at the pages.
Add here when something else can fail in front of an operator.
Keep out: what needs no browser (test_shown_failures.py).
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import psutil
import yaml

from cleanroom_pipelines.catalog import RECORDS, Kind, Resource, Status
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines_tests.disks import small_disk

from .. import worlds
from ..browsing import chromium, lines_of, see, texts
from ..journeys.developing import dagster_dev
from ..worlds import World, wait_until

_PATIENCE = 900


@dataclass
class Room:
    """One installation with its UI, in which faults are caused one after another.

    Attributes:
        folder: Has the home and the files of each fault.
        installation: The installation.
        url: The webserver; set again when it starts again.
        browser: Chromium.
        pictures: Folder for screenshots, if wanted.
    """

    folder: Path
    installation: Installation
    browser: Any
    pictures: Path | None
    url: str = ""

    def snap(self, name: str) -> None:
        if self.pictures:
            time.sleep(1.0)  # pictures only: pages draw after their text is there
            self.browser.save_screenshot(str(self.pictures / f"{name}.png"))

    def newest(self, record: Resource) -> Status:
        return self.installation.catalog.resources.newest_version(record.kind, record.id).status

    def current(self, record: Resource) -> int | None:
        return self.installation.catalog.get(RECORDS[record.kind], record.id).current_version

    def open(self, path: str) -> None:
        self.browser.get(f"{self.url}{path}")


@dataclass
class Scene:
    """The resources of one fault, all named by it.

    Attributes:
        name: The fault.
        room: Where it happens.
        world: Its files.
        records: Its resources, parents first.
    """

    name: str
    room: Room
    world: World
    records: list[Resource] = field(default_factory=list)

    def declare(self, seed: bool = True, **changes: Mapping[str, Any]) -> None:
        """Declare a dataset, model, configured model and, with a seed, a job with its export."""
        dataset, model, configured = (f"{self.name} {part}" for part in ("events", "model", "lookalikes"))
        names: dict[str, dict[str, Any]] = {
            "dataset": {"name": dataset},
            "model": {"name": model, "training_dataset": dataset},
            "configured": {"name": configured, "audience_model": model, "output": f"s3://audiences/{id(self)}"},
            "job": {"name": f"{self.name} job", "configured_audience_model": configured},
        }
        for part, more in changes.items():
            names[part] |= more
        worlds.declare(
            self.world.declaration,
            interactions=self.world.interactions,
            seed=self.world.seed if seed else None,
            **names,
        )
        self.apply()

    def apply(self) -> None:
        """Apply the declaration, without the check of headers that `cleanroom apply` does first."""
        worlds.apply(self.room.installation, self.world.declaration)
        resources = self.room.installation.catalog.resources
        self.records = [
            each for kind in worlds.ROAD for each in resources.iterate(kind) if each.name.startswith(self.name)
        ]

    def of(self, kind: Kind) -> Resource:
        (found,) = (each for each in self.records if each.kind is kind)
        return found

    def wait_for(self, status: Status, kinds: Sequence[Kind] = worlds.ROAD) -> None:
        for record in self.records:
            if record.kind in kinds:
                wait_until(
                    lambda record=record: self.room.newest(record) is status,  # type: ignore[misc]
                    seconds=_PATIENCE,
                    what=f"{status} of {record.name}: {worlds.statuses(self.room.installation)}",
                    every=0.3,
                )


def reason_page(record: Resource, asset: str = "") -> str:
    """The page of a partition's events, which starts with the newest."""
    asset = asset or ASSETS_OF[record.kind][-1]
    return f"/assets/{asset}?view=events&partitions%5B0%5D={record.id}&partition={record.id}"


def partition_page(record: Resource, asset: str = "") -> str:
    return f"/assets/{asset or ASSETS_OF[record.kind][-1]}?view=partitions&partition={record.id}"


def shows(room: Room, path: str, *wanted: str, seconds: float = 60) -> str:
    """Open a page until it shows these texts, and return its text; pages do not all renew themselves."""
    deadline, found = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        room.open(path)
        try:
            see(room.browser, lambda: all(text in lines_of(room.browser) for text in wanted), 8)
        except AssertionError:
            found = lines_of(room.browser)
            continue
        return lines_of(room.browser)
    raise AssertionError(f"{path} lacks {wanted}: {found}")


def look_at_failure(scene: Scene, reason: str, failed: Sequence[Kind], *, start: str = "") -> None:
    """See the reason on the start page, and on the events and run of each failed partition.

    Args:
        scene: The fault.
        reason: A part of the sentence.
        failed: The kinds that failed.
        start: What the start page shows, if not the reason.
    """
    room = scene.room
    shows(room, "/assets/clean_room", start or reason, scene.name)
    room.snap(f"{scene.name}-1-start")
    for kind in dict.fromkeys((failed[0], failed[-1])):
        record = scene.of(kind)
        shows(room, reason_page(record), reason)
        room.snap(f"{scene.name}-2-{record.kind}-events")
        shows(room, partition_page(record), "did not materialize this asset")
        room.snap(f"{scene.name}-3-{record.kind}-partition")
        run = next(link for link in room.browser.find_elements("css selector", "a[href*='/runs/']") if link.text)
        run.click()
        see(room.browser, lambda: "/runs/" in room.browser.current_url)
        see(room.browser, lambda: reason in lines_of(room.browser), 30)
        room.snap(f"{scene.name}-4-{record.kind}-run")
    assert_nothing_failed_is_green(scene, failed)


def assert_nothing_failed_is_green(scene: Scene, failed: Sequence[Kind]) -> None:
    """A resource that failed and has no earlier version is nowhere materialised."""
    with worlds.dagster_at_home(scene.room.installation) as instance:
        for record in scene.records:
            if record.kind in failed and scene.room.current(record) is None:
                built = [
                    asset
                    for asset in ASSETS_OF[record.kind]
                    if record.id in instance.get_materialized_partitions(dg.AssetKey(asset))
                ]
                assert built == [], record.name


def materialize(room: Room, record: Resource) -> None:
    """Click Materialize and Launch on the page of a failed partition's events."""

    def buttons(name: str) -> list[Any]:
        return [each for each in texts(room.browser, "button", name) if each.is_enabled()]

    room.open(reason_page(record))
    see(room.browser, lambda: buttons("Materialize"), 60)[0].click()
    see(room.browser, lambda: buttons("Launch"), 60)[-1].click()
    see(room.browser, lambda: not buttons("Launch"), 60)


def retry_all(room: Room) -> None:
    """Click the job that the start page names, and Launch Run."""
    shows(room, "/assets/clean_room", "retry_failed")
    texts(room.browser, "a", "retry_failed")[0].click()
    launch(room)


def look_at_recovery(scene: Scene) -> None:
    """Everything of the scene is done and shown as such."""
    scene.wait_for(Status.ACTIVE)
    shows(scene.room, "/assets/clean_room", "nothing failed", seconds=90)
    for record in scene.records:
        page = shows(scene.room, partition_page(record), "Materialized")
        assert "did not materialize this asset" not in page, record.name
        assert "Unsynced" not in page, record.name
    scene.room.snap(f"{scene.name}-5-recovered")


def start_job(scene: Scene) -> None:
    """Click the job that the start page names, fill its form, and Launch Run."""
    room, name = scene.room, f"{scene.name} corrected"
    form = {
        "configured_audience_model": scene.of(Kind.CONFIGURED_AUDIENCE_MODEL).id,
        "seed_path": str(scene.world.seed),
        "name": name,
    }
    shows(room, "/assets/clean_room", "start_generation_job", "cleanroom apply FILE.yaml")
    texts(room.browser, "a", "start_generation_job")[0].click()
    see(room.browser, lambda: room.browser.current_url.endswith("playground"))
    config = yaml.safe_dump({"ops": {"start_job": {"config": form}}})
    room.browser.get(f"{room.browser.current_url}/setup?config={quote(config)}")  # as if it was typed
    launch(room)
    jobs = room.installation.catalog.resources

    def is_done() -> bool:
        found = [each for each in jobs.iterate(Kind.GENERATION_JOB) if each.name == name]
        return bool(found) and room.newest(found[0]) is Status.ACTIVE

    wait_until(is_done, seconds=_PATIENCE, what=name, every=0.3)


def launch(room: Room) -> None:
    """Click Launch Run in a launchpad, and see the run."""

    def buttons() -> list[Any]:
        return [each for each in texts(room.browser, "button", "Launch Run") if each.is_enabled()]

    see(room.browser, buttons, 60)[-1].click()
    see(room.browser, lambda: "/runs/" in room.browser.current_url, 60)


CASCADE = (
    Kind.TRAINING_DATASET,
    Kind.AUDIENCE_MODEL,
    Kind.CONFIGURED_AUDIENCE_MODEL,
    Kind.GENERATION_JOB,
    Kind.EXPORT_JOB,
)
JOB_AND_EXPORT = CASCADE[3:]


@dataclass(frozen=True)
class Fault:
    """One way to break something.

    Attributes:
        cause: Causes it.
        reason: A part of the sentence that the pages show.
        failed: The kinds that fail, the cause first.
        repair: Removes the cause, outside Dagster.
        click: What the start page says to click then.
        prepare: Declares what must be built before.
    """

    cause: Callable[[Scene], None]
    reason: str
    failed: Sequence[Kind]
    repair: Callable[[Scene], None]
    click: str = "retry_failed"
    prepare: Callable[[Scene], None] = lambda _: None


def bad_table(write: Callable[[Path], None], reason: str) -> Fault:
    """A table that cannot be used; a good one takes its place."""

    def cause(scene: Scene) -> None:
        write(scene.world.folder / "events.csv")
        scene.declare(dataset={"source": str(scene.world.folder / "events.csv")})

    def repair(scene: Scene) -> None:
        write_csv(scene.world.folder / "events.csv")

    return Fault(cause, reason, CASCADE, repair)


def write_csv(path: Path, header: str = "user,item,ts", day: str = "") -> None:
    rows = (f"{user},{item},{day}{ts}\n" for user, item, ts in worlds.events())
    path.write_text(f"{header}\n{''.join(rows)}")


def bad_seed(users: Callable[[World], Sequence[str]], reason: str) -> Fault:
    """A seed that cannot be used; a new job gets a good one."""

    def cause(scene: Scene) -> None:
        worlds.write_seed(scene.world.seed, users(scene.world))
        scene.declare()

    def repair(scene: Scene) -> None:
        worlds.write_seed(scene.world.seed, scene.world.seed_users)

    return Fault(cause, reason, JOB_AND_EXPORT, repair, click="start_generation_job")


def declare_model(scene: Scene, **refresh: str) -> None:
    scene.declare(seed=False, model={"refresh": refresh} if refresh else {})


def lose_table(scene: Scene) -> None:
    """Move the table away once everything is built."""
    scene.wait_for(Status.ACTIVE)
    scene.world.interactions.rename(scene.world.interactions.with_suffix(".away"))


def lose_path(scene: Scene) -> None:
    lose_table(scene)
    materialize(scene.room, scene.of(Kind.TRAINING_DATASET))


def fail_refresh(scene: Scene) -> None:
    lose_table(scene)
    scene.room.installation.catalog.work.request_refresh(scene.of(Kind.AUDIENCE_MODEL).id)


def find_table(scene: Scene) -> None:
    scene.world.interactions.with_suffix(".away").rename(scene.world.interactions)


def cancel_job(scene: Scene) -> None:
    scene.declare()
    scene.room.installation.catalog.work.request_cancel(Kind.GENERATION_JOB, scene.of(Kind.GENERATION_JOB).id)


def fill_disk(scene: Scene) -> None:
    scene.declare(seed=False)
    scene.wait_for(Status.ACTIVE, CASCADE[:1])
    with filler_of(scene).open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(1 << 16)):
            pass


def filler_of(scene: Scene) -> Path:
    return scene.room.installation.home.root / "artifacts" / "filler"


def kill_workers(scene: Scene) -> None:
    scene.declare(seed=False)
    for _ in range(3):
        kill_run_of(scene.room, scene.of(Kind.AUDIENCE_MODEL))


def kill_run_of(room: Room, record: Resource) -> None:
    """Kill the process that works on a resource, as soon as it does."""

    def run_id() -> str | None:
        version = room.installation.catalog.resources.newest_version(record.kind, record.id)
        return version.run_id if version.status is Status.CREATE_IN_PROGRESS else None

    found = str(wait_until(run_id, seconds=_PATIENCE, what=f"a run of {record.name}", every=0.01))
    with worlds.dagster_at_home(room.installation) as instance:
        logs = instance.all_logs(found, dg.DagsterEventType.ENGINE_EVENT)
        pids = {
            entry.value
            for log in logs
            for name, entry in log.get_dagster_event().engine_event_data.metadata.items()
            if name == "pid"
        }
    for pid in pids:
        os.kill(int(str(pid)), signal.SIGKILL)
    wait_until(lambda: run_id() != found, seconds=_PATIENCE, what="the end of the lease", every=0.5)


FEW = "The seed has fewer matched users than the configured model requires"
TOGETHER: Mapping[str, Fault] = {
    "missing column": bad_table(lambda path: write_csv(path, "usr,item,ts"), "lacks the declared column 'user'"),
    "missing table": bad_table(lambda path: path.unlink(missing_ok=True), "was not found"),
    "text times": bad_table(lambda path: write_csv(path, day="day "), "column 'ts'"),
    "empty seed": bad_seed(lambda _: [], "The seed is empty"),
    "no match": bad_seed(lambda _: [f"stranger-{number}" for number in range(60)], FEW),
    "tiny seed": bad_seed(lambda world: world.group[:8], "fewer than the required 25 unique ids"),
    "cancelled job": Fault(cancel_job, "The work was cancelled", JOB_AND_EXPORT, lambda _: None),
    "lost path": Fault(lose_path, "was not found", CASCADE[:1], find_table, "materialize", declare_model),
    "failed refresh": Fault(
        fail_refresh,
        "was not found",
        CASCADE[:2],
        find_table,
        prepare=lambda scene: declare_model(scene, every="7d"),
    ),
}
"""Faults that do not disturb each other; they happen at the same time."""
ALONE: Mapping[str, Fault] = {
    "full disk": Fault(fill_disk, "The disk is full", CASCADE[1:3], lambda scene: filler_of(scene).unlink()),
    "killed worker": Fault(kill_workers, "Runs stopped 3 times", CASCADE[1:3], lambda _: None),
}
KILLED_DAEMON = "killed daemon"


def play(room: Room, faults: Mapping[str, Fault]) -> None:
    """Cause faults, look at what Dagster shows, repair them, click what the start page says, and look again."""
    scenes = {name: scene_of(room, name) for name in faults}
    for name, fault in faults.items():
        fault.prepare(scenes[name])
    for name, fault in faults.items():
        fault.cause(scenes[name])
    for name, fault in faults.items():
        scenes[name].wait_for(Status.CREATE_FAILED, fault.failed)
        report(f"{name}: failed")
    for name, fault in faults.items():
        look_at_failure(scenes[name], fault.reason, fault.failed)
        report(f"{name}: the pages show the reason")
    recover(room, faults, scenes)


def recover(room: Room, faults: Mapping[str, Fault], scenes: Mapping[str, Scene]) -> None:
    """Repair the faults, click what the start page says, and look again."""
    for name, fault in faults.items():
        fault.repair(scenes[name])
        if fault.click == "start_generation_job":
            start_job(scenes[name])
            scenes[name].apply()  # the declared job is repaired by its file, which the page names, too
        if fault.click == "materialize":
            materialize(room, scenes[name].of(fault.failed[0]))
    if any(fault.click == "retry_failed" for fault in faults.values()):
        retry_all(room)
    for scene in scenes.values():
        scene.wait_for(Status.ACTIVE)  # all, before the start page says that nothing failed
    for name in faults:
        look_at_recovery(scenes[name])
        report(f"{name}: recovered by clicks")


def kill_daemon(room: Room, log: Path) -> None:
    """Kill the daemon while it works; `cleanroom dev` starts again, and the work is done without a click."""
    scene = scene_of(room, KILLED_DAEMON)
    with serving(room, log) as kill:
        scene.declare(seed=False)
        model = scene.of(Kind.AUDIENCE_MODEL)
        wait_until(
            lambda: room.newest(model) is Status.CREATE_IN_PROGRESS, seconds=_PATIENCE, what="a run", every=0.01
        )
        kill()
        time.sleep(30)
        report(f"{KILLED_DAEMON}: {log.read_text(errors='replace')[-300:]}")
    with serving(room, log):
        look_at_recovery(scene)
        report(f"{KILLED_DAEMON}: recovered without a click")


@contextmanager
def serving(room: Room, log: Path) -> Iterator[Callable[[], None]]:
    """Run `cleanroom dev`; gives a function that kills its daemon."""
    home = room.installation.home.root
    with dagster_dev(home, worlds.settings(home), log) as room.url:

        def kill() -> None:
            for process in psutil.Process().children(recursive=True):
                if any("dagster._daemon" in part for part in process.cmdline()):
                    process.kill()

        yield kill


def scene_of(room: Room, name: str) -> Scene:
    return Scene(name.capitalize(), room, worlds.write_world(room.folder / name.replace(" ", "_")))


def report(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 the script's output


def main() -> int:
    """Cause the named faults, or all, and print how each ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*TOGETHER, *ALONE, KILLED_DAEMON]
    parser.add_argument("faults", nargs="*", choices=[*names, []], metavar="FAULT", help=", ".join(names))
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    given = parser.parse_args()
    wanted = given.faults or names
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as name,
        worlds.installed(Path(name) / "home") as installation,
    ):
        worlds.with_catalog(installation.home)
        log = Path(name) / "dev.log"
        with small_disk(installation.home.root / "artifacts", "size=64m"), chromium() as browser:
            room = Room(Path(name), installation, browser, given.pictures)
            with serving(room, log):
                if together := {name: fault for name, fault in TOGETHER.items() if name in wanted}:
                    play(room, together)
                for each in [name for name in ALONE if name in wanted]:
                    play(room, {each: ALONE[each]})
            if KILLED_DAEMON in wanted:
                kill_daemon(room, log)
    return 0


if __name__ == "__main__":
    sys.exit(main())
