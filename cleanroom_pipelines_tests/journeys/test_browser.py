"""Contract: the Dagster UI in a browser, with a real daemon, webserver and Chromium.

The asset graph is legible; a seed put into the inbox becomes an export; a click on Materialize builds a new
version; the pictures are on the asset page. A failure and its reason are on the start page, on the events of its
partition, and on its run; `shell/faults.py` shows that for twelve faults, and clicks what repairs them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.catalog import RECORDS, ConfiguredAudienceModel, Kind, Status
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines_tests.browsing import body, chromium, see, texts
from cleanroom_pipelines_tests.journeys.developing import dagster_dev
from cleanroom_pipelines_tests.shell import faults
from cleanroom_pipelines_tests.worlds import installed, settings, wait_until, write_seed, write_world

pytestmark = pytest.mark.browser

ASSETS = (
    "training_dataset",
    "audience_model",
    "configured_",  # the graph shortens long names in their middle
    "seed_valid",
    "audience",
    "audience_export",
)


@pytest.fixture
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def test_the_ui_shows_a_seed_become_an_export(tmp_path: Path, browser: Any) -> None:
    home = tmp_path / "home"
    world = write_world(tmp_path / "files")
    with installed(home) as installation, dagster_dev(home, settings(home), tmp_path / "dev.log") as url:
        apply_through_the_command(world.declaration, home)
        pictures = os.environ.get("CLEANROOM_TEST_PICTURES")  # a folder, to look at what the person sees

        def snap(name: str) -> None:
            if pictures:
                browser.save_screenshot(f"{pictures}/{name}.png")

        browser.get(
            f"{url}/locations/__repository__@cleanroom_pipelines.definitions/asset-groups/lookalike/lineage"
        )
        see(browser, lambda: all(asset in body(browser) for asset in ASSETS))
        snap("graph")

        configured = see_active(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        inbox = folder_of(installation, installation.catalog.get(ConfiguredAudienceModel, configured))
        wait_until(inbox.is_dir, seconds=600, what="the inbox")
        write_seed(tmp_path / "drop.csv", world.group[20:70])
        os.replace(tmp_path / "drop.csv", inbox / 'june "buyers".csv')

        browser.get(f"{url}/assets/audience_export?view=partitions")
        export = see(browser, lambda: [e for e in texts(browser, "*", "june-buyers") if e.is_displayed()], 240)[0]
        wait_until(lambda: any((inbox / "accepted").glob("*.json")), seconds=900, what="a receipt")
        export.click()
        see(browser, lambda: "june-buyers" in browser.current_url)
        (exported,) = (
            key for key in installation.catalog.resources.ids(Kind.EXPORT_JOB) if key.startswith("june")
        )
        see_version(installation, Kind.EXPORT_JOB, exported, 1)
        browser.get(browser.current_url)  # the details of a partition that was looked at do not follow its run
        see(browser, lambda: "Materialized" in body(browser) and "destination" in body(browser), 120)
        snap("export")
        assert not [path for path in inbox.iterdir() if path.is_file()]

        job = installation.catalog.resources.ids(Kind.GENERATION_JOB)[-1]
        browser.get(f"{url}/assets/audience?view=partitions&partition={job}")
        see(browser, lambda: "as many held-out seed users as chance" in body(browser))
        picture = see(browser, lambda: texts(browser, "*", "[Show Markdown]"))[-1]
        snap("audience")
        picture.click()
        images = see(browser, lambda: browser.find_elements("css selector", "img[src^='data:image/png']"))
        assert see(browser, lambda: browser.execute_script("return arguments[0].naturalWidth", images[0])) > 300
        snap("picture")

        dataset = installation.catalog.resources.ids(Kind.TRAINING_DATASET)[0]
        browser.get(f"{url}/assets/training_dataset?view=partitions&partition={dataset}")
        see(browser, lambda: texts(browser, "button", "Materialize"))[0].click()
        see(browser, lambda: texts(browser, "button", "Launch"))[-1].click()
        see_version(installation, Kind.TRAINING_DATASET, dataset, 2)
        # the model follows its dataset; the first version stays what it was
        model = installation.catalog.resources.ids(Kind.AUDIENCE_MODEL)[0]
        see_version(installation, Kind.AUDIENCE_MODEL, model, 2)
        first = installation.catalog.resources.version(Kind.AUDIENCE_MODEL, model, 1)
        assert first.status is Status.ACTIVE
        snap("new_version")

        room = faults.Room(tmp_path, installation, browser, Path(pictures) if pictures else None, url)
        scene, fault = faults.scene_of(room, "missing column"), faults.TOGETHER["missing column"]
        fault.cause(scene)
        scene.wait_for(Status.CREATE_FAILED, fault.failed)
        faults.look_at_failure(scene, fault.reason, fault.failed)


def apply_through_the_command(declaration: Path, home: Path) -> None:
    import subprocess
    import sys

    subprocess.run(
        [sys.executable, "-m", "cleanroom_pipelines.cli.main", "apply", str(declaration)],
        env=os.environ | settings(home),
        check=True,
        capture_output=True,
    )


def see_active(installation: Installation, kind: Kind) -> str:
    """Wait until the only resource of a kind is ACTIVE, and return it."""
    (key,) = wait_until(lambda: installation.catalog.resources.ids(kind), seconds=300, what=f"a {kind.words}")
    see_version(installation, kind, key, 1)
    return key


def see_version(installation: Installation, kind: Kind, key: str, number: int) -> None:
    """Wait until a version is the current one."""
    wait_until(
        lambda: installation.catalog.get(RECORDS[kind], key).current_version == number,
        seconds=900,
        what=f"version {number} of the {kind.words}",
        every=0.5,
    )
