"""The AWS SDK for JavaScript on Node, versions 3 and 2, against a real `cleanroom serve`.

Contract: both versions do everything for two accounts, from a table to an export and the deletion of all
resources, with pages, dates, tags and typed errors. Version 2 is the published client, which knows the API as of
2024. Version 3 is the SDK's runtime with the API's newest model, as its code generator would write it.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader

from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines_tests.server import server as endpoint

from ..worlds import N_USERS

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed"),
]

SCRIPTS = Path(__file__).parent / "sdk"
QUOTA = 5


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, next to the SDKs that the lock file names."""
    folder = shutil.copytree(SCRIPTS, tmp_path_factory.mktemp("sdk") / "sdk")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[endpoint.Server, endpoint.Parties]]:
    home = tmp_path_factory.mktemp("javascript") / "home"
    installation = endpoint.installation_at(home)
    parties = endpoint.settle(installation)
    members = [parties.publisher.account_id, parties.advertiser.account_id]
    installation.catalog.parties.create_collaboration("spring", members)
    with endpoint.serving(home, environment={"CLEANROOM_MAX_RESOURCES": str(QUOTA)}) as server:
        yield server, parties


@pytest.mark.parametrize("script", ["v3.mjs", "v2.mjs"])
def test_two_parties_from_first_to_last_call(
    script: str, scripts: Path, running: tuple[endpoint.Server, endpoint.Parties]
) -> None:
    server, parties = running
    world = {
        "endpoint": server.url,
        "region": endpoint.REGION,
        "prefix": script,
        "quota": QUOTA,
        "publisher": vars(parties.publisher),
        "advertiser": vars(parties.advertiser),
        "model": str(write_model(scripts / "model.json")),
    }
    done = subprocess.run(
        ["node", "--no-warnings", script],
        input=json.dumps(world),
        cwd=scripts,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    location = json.loads(done.stdout)["outputLocation"]
    answer = endpoint.download(server.url, parties.publisher, location.removeprefix("s3://") + "/manifest.json")
    # the job's data went with it, the export is its owner's
    assert json.loads(answer.body)["delivered"] == N_USERS // 5


def test_objects_of_both_parties(scripts: Path, running: tuple[endpoint.Server, endpoint.Parties]) -> None:
    server, parties = running
    world = {
        "endpoint": server.url,
        "region": endpoint.REGION,
        "publisher": vars(parties.publisher),
        "advertiser": vars(parties.advertiser),
    }
    done = subprocess.run(
        ["node", "--no-warnings", "s3.mjs"],
        input=json.dumps(world),
        cwd=scripts,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def write_model(path: Path) -> Path:
    """Write botocore's model of the API, reduced to the operations that are served."""
    model: dict[str, Any] = dict(Loader().load_service_model("cleanroomsml", "service-2"))
    model["operations"] = {name: model["operations"][name] for name in OPERATIONS}
    path.write_text(json.dumps(model))
    return path
