"""Pages of a room's data, over HTTP against a real `cleanroom serve` without a worker.

Contract: a file goes from its field through the vault to a provisioned room, without scripts; what was found is
shown before it is taken, and can be corrected; files of other kinds and given up files are not kept; reports have
codes and row numbers but no cell; only those who may provide a side see and change it; nothing typed is unescaped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.building_rooms import build_data_lab, build_room_asset
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.terms import Permission
from cleanroom_pipelines_tests.server.server import serving

from ..storage.auditing import lines_of
from ..uploads.workbooks import archive, workbook
from .sites import File, Served, words

BASE, SEED, OTHER = "base@x.example", "seed@x.example", "other@x.example"
HELD = {
    BASE: [Permission.PROVIDE_BASE_AUDIENCE],
    SEED: [Permission.PROVIDE_SEED_AUDIENCE],
    OTHER: [Permission.VIEW_OVERLAP],
}
SCRIPT = "<script>alert(1)</script>.csv"
CANARY = "canary-of-a-cell"


@dataclass
class Site(Served):
    """A served room."""

    room: str = ""

    def open_room(self, *kinds: str) -> "Site":
        """Return the site with another room."""
        params = {
            "name": "Spring",
            "participants": [
                {"emails": [email], "role": email[:5], "permissions": [each.value for each in held]}
                for email, held in HELD.items()
            ],
            "collaboration_types": ["ENABLE_OVERLAP"],
            "matching_ids": list(kinds or ("EMAIL",)),
            "hide_absolute_values": False,
            "activation": [],
        }
        room = MediaService(self.installation).call(BASE, "create_room", params)["id"]
        return Site(self.installation, self.url, room, browsers=self.browsers)

    def get(self, email: str, path: str = "", status: int = 200) -> str:
        return self.page(email, self.address(path), status)

    def post(self, email: str, path: str, fields: dict[str, str], status: int = 303) -> str:
        """Send a form; return the address of the next page, or the page itself if there is none."""
        return self.submit(email, self.address(path), fields, status)

    def send(self, email: str, files: dict[str, File], status: int = 303) -> str:
        """Send a form of files; return the address of the next page, or the page itself if there is none."""
        side = {"side": "base" if email == BASE else "seeds"}
        return self.submit(email, self.address(""), side, status, files=files)

    def address(self, path: str) -> str:
        return path if path.startswith("/console") else f"/console/rooms/{self.room}/data{path}"

    def n_held(self) -> int:
        """Return the number of files in the vault."""
        return len(self.installation.uploads.locations())

    def record(self) -> Any:
        return next(each for each in self.installation.catalog.rooms.data_rooms() if each.id == self.room)

    def build(self, asset: str) -> None:
        version = self.installation.catalog.resources.newest_version(Kind.DATA_ROOM, self.room)
        build_room_asset(self.installation, self.room, Run("run", version.number), asset=asset, finishes=False)


def ids_of(location: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(location).query))


def customers(*lines: str) -> File:
    return "customers.csv", "".join(f"{line}\n" for line in lines).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("data") / "home"
    installation = Installation(Settings(home=home, threads=1, memory_bytes=512 * 10**6))
    for email in HELD:
        installation.catalog.users.create_user(email)
    with serving(home, "--no-worker") as server:
        yield Site(installation, server.url)


@pytest.fixture
def site(served: Site) -> Site:
    return served.open_room()


def test_a_workbook_of_customers_goes_to_the_room(site: Site) -> None:
    page = site.get(SEED)
    assert (
        "The room is being set up." in page and '<progress max="100" value="0" aria-label="Progress"' not in page
    )
    assert "Choose your customer lists" in page
    assert "Choose the files with your users" not in page
    rows = [["Email", "Type"], ["a@b.example", "loyal"], [CANARY, "loyal"]]
    confirm = site.send(SEED, {"seed_audiences-1": (SCRIPT, workbook(rows))})
    shown = site.get(SEED, confirm)
    assert "script&gt;.csv" in shown
    assert "column names; will be skipped" in shown
    assert CANARY not in shown
    fields = {**ids_of(confirm), "seed_audiences-1-separator": "comma", "seed_audiences-1-kind": "EMAIL"}
    assert site.post(SEED, "/confirm", fields).endswith("/data?done=data.provided.done")
    assert site.record().inputs == {"seeds:EMAIL": ids_of(confirm)["seed_audiences-1"]}
    running = site.get(SEED)
    assert "hx-trigger" in running
    assert "Refresh" in running
    assert "The room is being set up." not in running


def test_a_report_has_codes_and_rows_without_cells(site: Site) -> None:
    confirm = site.send(SEED, {"seed_audiences-1": customers(CANARY, "also wrong", "also wrong too")})
    site.post(SEED, "/confirm", {**ids_of(confirm), "seed_audiences-1-kind": "EMAIL"})
    site.build("seed_audiences")
    report = site.get(SEED)
    assert "Not valid" in report
    assert "The cell is not an e-mail address." in words(report)
    rows = site.browser(SEED).get(site.address("/rows/seeds"))
    assert rows.headers["content-type"] == "text/csv"
    assert "seeds,1,matching_id,INVALID_EMAIL_FORMAT,The cell is not an e-mail address." in rows.text.split("\r\n")
    assert CANARY not in report + rows.text
    assert not site.record().has_seeds


def test_a_base_audience_is_validated_before_it_is_provisioned(site: Site) -> None:
    files = {
        "matching-1": ("users.csv", b"u1;a@b.example\nu2;c@d.example\nu3;nothing\n"),
        "segments": ("interests.csv", b"user_id,segment\nu1,wine\n"),
        "demographics": ("people.csv", b"u1,18-24,f\n"),
        "embeddings": ("vectors.csv", b"u1,site,0.1,0.2\n"),
    }
    confirm = site.send(BASE, files)
    shown = words(site.get(BASE, confirm))
    assert "user id, scope, 2 numbers" in shown
    check = site.post(BASE, "/confirm", {**ids_of(confirm), "matching-1-kind": "EMAIL"})
    assert "in the queue" in words(site.get(BASE, check))
    lab = check.rpartition("/")[2]
    build_data_lab(site.installation, lab, Run("run", 1))
    found = words(site.get(BASE, check))
    assert "Users 2 An exact number" in found
    assert "Users with an id for matching 1 An exact number" in found
    assert "INVALID_EMAIL_FORMAT" in found
    rows = site.browser(BASE).get(f"{check}/rows").text
    assert rows.split("\r\n")[1].startswith("matching,3,matching_id,")
    assert site.post(BASE, f"{check}/provision", {}).endswith("done=data.provided.done")
    assert site.record().n_embeddings == 2
    assert f"/checks/{lab}" in site.get(BASE)
    site.post(BASE, f"{check}/delete", {})
    assert f"/checks/{lab}" not in site.get(BASE)


def test_the_user_corrects_what_was_found(served: Site) -> None:
    site = served.open_room("EMAIL", "STRING")
    confirm = site.send(SEED, {"seed_audiences-1": customers("unknown;b", "x@y.example,1;loyal")})
    ids, held = ids_of(confirm), site.n_held()
    fields = {
        **ids,
        "seed_audiences-1-separator": "semicolon",
        "seed_audiences-1-header": "yes",
        "seed_audiences-1-kind": "STRING",
    }
    site.post(SEED, "/confirm", fields)
    (upload_id,) = site.record().inputs.values()
    upload = site.installation.catalog.rooms.upload(upload_id)
    assert upload_id != ids["seed_audiences-1"]
    assert site.n_held() == held, "the file as it was sent is deleted"
    with site.installation.uploads.opening(upload.location) as path:
        assert path.read_bytes() == b'"x@y.example,1",loyal\n'


def test_each_column_of_the_file_is_shown_with_what_it_is_taken_as(site: Site) -> None:
    files = {
        "matching-1": ("ids.csv", b"customer_no;e-mail\nc-1;a@b.example\n"),
        "demographics": ("people.csv", b"customer_no;age_band;city\nc-1;25-34;Bonn\n"),
    }
    shown = words(site.get(BASE, site.send(BASE, files)))
    assert "“customer_no” → user id, “age_band” → age, “city” → gender" in shown
    assert "“e-mail” → id for matching" in shown
    assert "Bonn" not in shown


def test_a_wrong_correction_is_shown_next_to_its_field(served: Site) -> None:
    site = served.open_room("EMAIL", "STRING")
    files = {"seed_audiences-1": customers("a@b.example;a;b,c"), "seed_audiences-2": customers("c@d.example,x")}
    fields = {
        **ids_of(site.send(SEED, files)),
        "seed_audiences-1-separator": "semicolon",
        "seed_audiences-1-kind": "EMAIL",
        "seed_audiences-2-kind": "EMAIL",
    }
    page = site.post(SEED, "/confirm", fields, 400)
    assert "has 3 columns instead of 2" in page
    assert "Two files have the same kind of id" in page
    assert 'value="semicolon" selected' in page, "what was chosen is kept"
    assert not site.record().has_seeds
    unknown = site.post(SEED, "/confirm", {**fields, "seed_audiences-1-kind": "PHONE_NUMBER"}, 400)
    assert "Choose a kind of id" in unknown


def test_an_id_that_the_room_does_not_match_by_is_pointed_out(site: Site) -> None:
    confirm = site.send(SEED, {"seed_audiences-1": customers("+12025550123,x")})
    assert "These ids look like phone numbers. The room does not match by ids of this kind." in words(
        site.get(SEED, confirm)
    )


WRONG = {
    "pdf": (b"%PDF-1.7", "The file is a PDF document."),
    "image": (b"\x89PNG\r\n\x1a\n\0", "The file is an image."),
    "empty": (b"", "The file is empty."),
    "html": (b"<html><body>", "The file is a web page or XML."),
    "zip": (archive(), "The file is an archive or a document"),
    "columns": (b"a,b,c\n", "The file has 3 columns instead of 2."),
    "workbook": (workbook([["a", "b", "c"]]), "The file has 3 columns instead of 2."),
}


def test_wrong_files_get_one_sentence_and_are_not_kept(served: Site) -> None:
    site = served.open_room("EMAIL", "STRING")
    held = site.n_held()
    for name, (content, sentence) in WRONG.items():
        good = customers("a@b.example,x")
        page = site.send(SEED, {"seed_audiences-1": (name, content), "seed_audiences-2": good}, 400)
        assert sentence in page, name
        assert page.count('class="wrong"') == 1, name
    assert site.n_held() == held
    assert "Choose a file." in site.send(SEED, {"seed_audiences-2": customers("a@b.example,x")}, 400)


def test_given_up_files_are_deleted(site: Site) -> None:
    held = site.n_held()
    confirm = site.send(SEED, {"seed_audiences-1": customers("a@b.example,x")})
    assert site.n_held() == held + 1
    assert site.post(SEED, "/discard", ids_of(confirm)).endswith("done=data.discarded.done")
    assert site.n_held() == held


def test_data_is_taken_back_after_a_question(site: Site) -> None:
    confirm = site.send(SEED, {"seed_audiences-1": customers("a@b.example,x")})
    fields = {**ids_of(confirm), "seed_audiences-1-kind": "EMAIL"}
    site.post(SEED, "/confirm", fields)
    refused = site.post(SEED, "/discard", ids_of(confirm), 409)
    assert "uses the file" in refused
    assert "Lists that were delivered stay" in site.get(SEED, "/take-back/seeds")
    site.post(SEED, "/take-back/seeds", {})
    assert not site.record().has_seeds
    history = words(site.get(SEED, "/history"))
    assert history.index("Customer lists taken back") < history.index("Customer lists provided")
    assert "No data was provided yet" in site.get(BASE, "/history")


def test_others_see_and_change_nothing(site: Site) -> None:
    ids = ids_of(site.send(SEED, {"seed_audiences-1": customers("a@b.example,x")}))
    fields = {**ids, "seed_audiences-1-kind": "EMAIL"}
    n_lines = len(lines_of(site.installation.home.audit))
    for email in (OTHER, BASE):
        query = "&".join(f"{name}={value}" for name, value in ids.items())
        site.get(email, f"/confirm?{query}", 403)
        site.post(email, "/confirm", fields, 403)
        site.post(email, "/discard", ids, 403)
        site.post(email, "/take-back/seeds", {}, 403)
    site.get(OTHER, "", 403)
    site.get(BASE, "/rows/seeds", 404)
    site.get(SEED, "/checks/data-lab-00000000", 403)
    assert len(lines_of(site.installation.home.audit)) >= n_lines + 9
    for path in ("/samples/none", "/samples/seeds", "/rows/none", "/take-back/none"):
        site.get(SEED, path, 404)
    site.get(SEED, "/confirm", 400)


def test_samples_are_files(site: Site) -> None:
    page = site.get(BASE)
    samples = re.findall(r'href="([^"]*/samples/[^"]*)"', page)
    assert len(samples) == 4
    for each in samples:
        answer = site.browser(BASE).get(each)
        assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''sample-")
        assert answer.text.startswith("user_id,")
