"""Contract: the script in data/example uses the whole Media API over HTTP, on Complete Journey data.

The script runs in a process without access to the home; the server's worker does the work through Dagster.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.runs.credentials import issue_token
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines_tests.server.server import Server, serving

from .. import worlds
from ..architecture.tree import ROOT
from ..storage.auditing import lines_of

SCRIPT = ROOT / "data" / "example" / "data_room.py"
PEOPLE = ("data@publisher.example", "crm@advertiser.example", "plans@agency.example")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, list[str], Installation]]:
    installation = Installation(Settings(home=tmp_path / "home"))
    tokens = []
    for email in PEOPLE:
        installation.catalog.users.create_user(email)
        tokens.append(issue_token(installation, email)[0])
    with serving(tmp_path / "home") as server:
        yield server, tokens, installation


def test_the_script_uses_the_whole_api(served: tuple[Server, list[str], Installation], tmp_path: Path) -> None:
    server, tokens, installation = served
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLEANROOM", "DAGSTER"))}
    walked = subprocess.run(
        [sys.executable, str(SCRIPT), server.url, *tokens],
        capture_output=True,
        text=True,
        env=kept,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert walked.returncode == 0, walked.stdout + walked.stderr
    told = dict(line.split(": ", 1) for line in walked.stdout.splitlines() if ": " in line)
    assert walked.stdout.endswith("done\n")
    assert told["validation of matching ids"] == told["validation of seeds"] == "PASSED"
    assert float(told["area under the ROC curve"]) > 0.6
    assert 0 < float(told["privacy budget"].split()[0]) <= 100, "all of it within what a pair may spend"
    assert told["price of the overlap"] == "2 units of 90 left"
    assert told["price of insights"] == "20 units of 88 left"
    assert told["price of the same insights for another participant"] == "0 units of 68 left"
    assert "REMARKETING" in told["delivered to the advertiser"]
    assert told["proposed"].endswith("right in 61% instead of 60%")
    assert told["approved by"] == "advertiser.example, publisher.example"
    assert told["privacy budget after"] == "120 units"
    assert told["rejected"].startswith("Other audiences depend on the audiences to delete.")
    assert installation.audit.verify().ok
    written = b"".join(lines_of(installation.home.audit))
    for secret in (*tokens, *PEOPLE, "household-"):
        assert secret.encode() not in written
    (room,) = installation.catalog.rooms.data_rooms()
    for asset in ("base_audience", "seed_audiences", "overlap_statistics", "room_model"):
        worlds.wait_until(
            lambda asset=asset: installation.store.versions(asset, room.id) == [],  # type: ignore[misc]
            seconds=600,
            what="the end of what was taken out",
        )


def test_the_readme_names_the_script() -> None:
    assert "data/example/data_room.py" in (ROOT / "README.md").read_text()
