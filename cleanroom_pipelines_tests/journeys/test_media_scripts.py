"""Scripts for Decentriq's Media API, with only the name of the package changed in their imports.

Contract: on a served installation each kind of script runs in the form of Decentriq's Media API and in ours, and
both find the same.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.runs.credentials import issue_token
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines_tests.server.server import serving
from cleanroom_pipelines_tests.worlds import wait_until

from .media_scripts import CREATE, OURS, PROVISION_BASE, PROVISION_SEEDS, THEIRS

PUBLISHER, ADVERTISER = "data@publisher.example", "crm@advertiser.example"
COLLEAGUE = "plans@advertiser.example"
N_USERS, N_LOYAL = 3_000, 1_200
Names = dict[str, Any]


def write_files(folder: Path) -> None:
    """Write files of users, of whom the loyal ones more often buy wine."""
    draw = random.Random(7)
    users = [f"u{n:04}" for n in range(N_USERS)]
    (folder / "matching.csv").write_text("".join(f"{user},{user}@mail.example\n" for user in users))
    with (folder / "segments.csv").open("w") as segments:
        for n, user in enumerate(users):
            bought = {f"aisle {draw.randrange(12)}" for _ in range(4)}
            if draw.random() < (0.8 if n < N_LOYAL else 0.1):
                bought.add("wine")
            segments.writelines(f"{user},{each}\n" for each in sorted(bought))
    rows = [f"{user},{draw.choice(['20-29', '30-39'])},{draw.choice('fm')}\n" for user in users]
    (folder / "demographics.csv").write_text("".join(rows))
    seeds = [f"{user}@mail.example,loyal\n" for user in users[:N_LOYAL]]
    (folder / "customers.csv").write_text("".join([*seeds, "not an address,loyal\n"]))


def run(script: str, names: Names, form: str = "theirs") -> Names:
    """Run a script with the package's name replaced in its imports, and return its names."""
    spoken = dict(names, FORM=form)
    exec(compile(script.replace("from decentriq_platform", "from cleanroom_pipelines"), "script", "exec"), spoken)
    return spoken


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    """What scripts find: a served room in which both sides provided their data by scripts."""
    folder = tmp_path_factory.mktemp("scripts")
    write_files(folder)
    installation = Installation(Settings(home=folder / "home"))
    for email in (PUBLISHER, ADVERTISER, COLLEAGUE):
        installation.catalog.users.create_user(email)
    parties = {
        name: (email, issue_token(installation, email)[0])
        for name, email in (("PUBLISHER", PUBLISHER), ("ADVERTISER", ADVERTISER))
    }
    with serving(folder / "home") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEANROOM_MEDIA_URL", server.url)
        known: Names = {**parties, "URL": server.url, "FOLDER": folder, "COLLEAGUE": COLLEAGUE}
        created = run(CREATE, known)
        assert created["found"] == [["advertiser", "publisher"], PUBLISHER, True, False, False]
        known["ROOM"] = created["ROOM"]
        assert run(PROVISION_BASE, known)["found"][0] == ["demographics", "matching", "segments"]
        assert run(PROVISION_SEEDS, known)["found"] is True
        yield known


def check(kind: str, found: Any) -> None:
    """Check the parts of a finding that the files determine."""
    if kind == "overlap":
        assert found[:2] == ["loyal", N_LOYAL]
        assert found[2] == pytest.approx(N_LOYAL, abs=100)
    elif kind == "insights":
        assert found[0] == pytest.approx(N_USERS, abs=300)
        assert dict(found[2])["wine"] > 1.5
    elif kind == "lookalike":
        assert found[2] > 0.6
    elif kind == "remarketing and exclusion":
        assert found[2:] == [N_LOYAL, N_USERS - N_LOYAL]
    elif kind == "sharing and deleting":
        assert found == [True, False, False]
    elif kind == "users":
        assert found == [[ADVERTISER, COLLEAGUE], ["Permission.VIEW_OVERLAP"], [ADVERTISER]]
    elif kind == "reports":
        assert (found[0], found[3], found[4]) == ("PASSED", "PASSED", {"INVALID_EMAIL_FORMAT": 1})


@pytest.mark.parametrize("kind", THEIRS)
def test_a_script_of_each_kind_runs_in_both_forms(names: Names, kind: str) -> None:
    theirs, ours = run(THEIRS[kind], names)["found"], run(OURS[kind], names, "ours")["found"]
    assert theirs == ours
    check(kind, theirs)


def test_lists_of_a_seed_audience_have_one_control_group_and_give_out_their_changes(names: Names) -> None:
    service = MediaService(Installation(Settings(home=names["FOLDER"] / "home")))
    (room,) = service.call(PUBLISHER, "list_rooms", {})["rooms"]

    def delivered(**options: str) -> tuple[str, dict[str, Any]]:
        about = {"kind": "seed", "audience_type": "loyal"}
        asked = {"room_id": room["id"], "kind": "user_list", "audience": about, "options": options}
        job = {"job_id": service.call(PUBLISHER, "start_job", asked)["id"]}
        wait_until(
            lambda: service.call(PUBLISHER, "get_job", job)["status"] != "Running", seconds=120, what="a list"
        )
        files = service.call(PUBLISHER, "get_job_result", job)["files"]
        return job["job_id"], {file["name"].partition("-")[0]: file for file in files}

    first, complete = delivered(holdout="10%")
    _, changes = delivered(holdout="10%", delta_from=first)
    assert list(complete) == ["part"]
    assert complete["part"]["n_users"] < N_LOYAL
    assert list(changes) == ["part", "added", "removed"]
    assert changes["part"]["sha256"] == complete["part"]["sha256"]
    assert (changes["added"]["n_users"], changes["removed"]["n_users"]) == (0, 0)
    service.installation.audit.close()
