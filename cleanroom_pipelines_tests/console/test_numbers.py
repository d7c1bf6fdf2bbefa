"""Pages of the overlap, the insights and the lists, over HTTP against a real `cleanroom serve` without a worker.

Contract: a price is shown before a question is asked, and paid by a form only, once; opening a page spends
nothing; every figure shows its ±; "too few" and "hidden" are states; only those who may see or download do; texts
of users are escaped, also in CSV.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from cleanroom_pipelines.audiences.overlap import question_about
from cleanroom_pipelines.catalog import AudienceList, Cause, DataRoom, Kind
from cleanroom_pipelines.console.pages.insights import _harmless
from cleanroom_pipelines.privacy import INSIGHTS
from cleanroom_pipelines.runs.budgets import RoomBudget
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.terms import Permission
from cleanroom_pipelines_tests.media.groups import MediaWorld, email, rule
from cleanroom_pipelines_tests.server.server import serving

from .sites import Served, words

P = Permission
GROUPS = {
    "base": (P.PROVIDE_BASE_AUDIENCE,),
    "seed": (P.PROVIDE_SEED_AUDIENCE, P.VIEW_OVERLAP),
    "agency": (P.VIEW_OVERLAP, P.VIEW_INSIGHTS),
    "export": (P.CREATE_CUSTOM_AUDIENCE, P.EXPORT_AUDIENCE),
    "owner": (),
}
SCRIPT, FORMULA = "<script>alert(1)</script>", "=1+1"
NOISE = {"plus_minus": 23, "statement": "± 23 at 90 %", "threshold": 40}
CHECKSUM = "ab" * 32


def overlap_row(kind: str, size: int | None, *, is_own: bool) -> dict[str, Any]:
    return {
        "audience_type": kind,
        "advertiser_size": 500 if is_own else None,
        "overlap_size": size,
        "is_empty": size is None,
        "match_rate": 0.62 if size and is_own else None,
        "match_rate_error": 0.046 if size and is_own else None,
    }


def insights_row(affinity: float | None, **values: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(("interest", "age", "gender")),
        **values,
        "affinity_ratio": affinity,
        "affinity_error": affinity and 0.21,
        "share_in_overlap": affinity and 0.3,
        "share_in_overlap_error": affinity and 0.021,
        "share_in_matchable": 0.15,
        "share_in_matchable_error": 0.012,
        "addressable_size": 1230,
        "addressable_error": 45.0,
    }


ROWS = [
    insights_row(2.1, interest=SCRIPT),
    insights_row(None, interest=FORMULA),
    insights_row(0.8, age="20-29"),
    insights_row(1.2, gender="f"),
    insights_row(1.4, age="20-29", gender="f"),
]


@dataclass
class Place:
    """A room with both sides' data, in a browser."""

    site: Served
    world: MediaWorld

    @classmethod
    def open(cls, site: Served, *, ready: bool = True) -> "Place":
        place = cls(site, MediaWorld.open(site.installation, GROUPS))
        if ready:
            place.world.provision()
            place.world.finish(Kind.DATA_ROOM, place.world.room, sides())
            place.rebuild()
        return place

    def rebuild(self, *, wait: bool = False) -> None:
        """Build the room again, with answers; only start it if it shall wait."""
        self.site.installation.catalog.work.request_version(Kind.DATA_ROOM, self.world.room, Cause.UPDATED)
        if not wait:
            self.world.finish(Kind.DATA_ROOM, self.world.room, {**sides(), **self.answers()})

    def answers(self) -> dict[str, Any]:
        catalog = self.site.installation.catalog
        version = catalog.resources.current_version(Kind.DATA_ROOM, self.world.room)
        assert version is not None
        state = RoomBudget.of(self.site.installation, catalog.get(DataRoom, self.world.room), version)
        assert state is not None
        text = question_about("loyal", seeds=state.seeds)
        size = state.question("overlap", text).as_dict()
        table = state.question("insights", f"insights of {text}", INSIGHTS).as_dict()
        kinds = (("loyal", 310), (SCRIPT, None))
        rows = {own: [overlap_row(*each, is_own=own) for each in kinds] for own in (True, False)}
        overlap = {
            "with_own_counts": {"rows": rows[True], "noise": NOISE},
            "without_own_counts": {"rows": rows[False], "noise": NOISE},
            "questions": [size],
        }
        result = {"audiences": [{"audience_type": "loyal", "rows": ROWS}], "noise": NOISE}
        insights = {"result": result, "questions": {"loyal": [table, size]}}
        return {"overlap_statistics": {"overlap": overlap}, "insights": {"insights": insights}}

    def address(self, path: str) -> str:
        return path if path.startswith("/console") else f"/console/rooms/{self.world.room}{path}"

    def get(self, path: str, group: str, status: int = 200) -> str:
        return self.site.page(email(group), self.address(path), status)

    def post(self, path: str, group: str, status: int = 303, **fields: str) -> str:
        """Send a form; return the address of the next page, or the text of the page if there is none."""
        found = self.site.submit(email(group), self.address(path), fields, status)
        return found if status == 303 else words(found)

    def delivered(self, files: Mapping[str, bytes], **options: Any) -> tuple[str, str]:
        """Deliver an audience's list as a run would; return the address of its page, and the audience."""
        audience = self.world.audience("export", rule({"kind": "base"}), name=f"Ready {SCRIPT}")
        self.world.finish(Kind.CUSTOM_AUDIENCE, audience)
        about = {"kind": "custom", "id": audience}
        job = self.world.ask("export", "user_list", audience=about, options=options)
        self.finish_list(files)
        return self.address(f"/lists/{job['id']}"), audience

    def finish_list(self, files: Mapping[str, bytes]) -> None:
        catalog = self.site.installation.catalog
        newest = next(each for each in catalog.work.ready() if each.kind is Kind.AUDIENCE_LIST)
        assert catalog.get(AudienceList, newest.resource_id)
        parts = [
            {"name": name, "n_users": content.count(b"\n"), "n_bytes": len(content), "sha256": CHECKSUM}
            for name, content in files.items()
        ]
        document = {"files": parts, "manifest": {}, "reveals": ["REMARKETING"]}
        artifacts = {"audience_user_list": {"list": document}}
        self.world.finish(Kind.AUDIENCE_LIST, newest.resource_id, artifacts, files)


def sides() -> dict[str, Any]:
    seeds = {"digests": {"loyal": "l"}, "seeds": {"by_type": {"loyal": {"n_unique_ids": 500}}}}
    return {"base_audience": {}, "seed_audiences": seeds}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("numbers") / "home"
    installation = Installation(Settings(home))
    for group in GROUPS:
        installation.catalog.users.create_user(email(group))
    with serving(home, "--no-worker") as server:
        yield Served(installation, server.url)


def test_the_overlap_is_paid_by_a_form_that_shows_its_price(site: Served) -> None:
    place = Place.open(site)
    page = words(place.get("/overlap", "seed"))
    assert "Price: 2 units" in page and "100 units are left. Afterwards, 98 units are left." in page
    assert place.world.spent == 0, "opening the page is free"
    answer = place.post("/overlap", "seed", price="2.0")
    assert place.world.spent == 20
    found = words(place.get(answer, "seed"))
    assert "310 ± 23" in found and "62.0 % ± 4.6 %" in found and "Your ids 500" in found
    assert "too few to tell" in found and SCRIPT in found and "it was paid for before" in found
    other = words(place.get(place.post("/overlap", "agency", price="0"), "agency"))
    assert "310 ± 23" in other and "Match rate" not in other and "500" not in other
    assert place.world.spent == 20, "the second reader pays nothing"


def test_a_step_is_done_once_its_answer_is_there(site: Served) -> None:
    place = Place.open(site)

    def steps(group: str) -> tuple[bool, str]:
        of_room = words(place.get("", group))
        return "See the overlap" in of_room, of_room

    assert steps("seed")[0] and steps("agency")[0]
    place.post("/overlap", "seed", price="2.0")
    assert "Explore the room" in steps("seed")[1] and not steps("seed")[0]
    assert steps("agency")[0], "another person has not seen it"
    assert "310 ± 23" in words(place.get("/overlap", "seed")), "it is shown without asking again"
    place.post("/overlap", "agency", price="0")
    assert "See the insights" in steps("agency")[1]
    place.rebuild()
    assert steps("seed")[0], "the data are new"


def test_a_form_without_the_present_price_asks_nothing(site: Served) -> None:
    place = Place.open(site)
    for price in ("", "1", "nan", "x"):
        assert "nothing was charged" in place.post("/overlap", "seed", 409, price=price)
    assert "nothing was charged" in place.post("/insights", "agency", 409, price="2", audience_type="loyal")
    assert place.world.spent == 0
    assert place.world.call("seed", "list_jobs", room_id=place.world.room, kinds=["overlap_statistics"]) == {
        "jobs": []
    }


def test_an_answer_that_takes_time_is_paid_when_it_is_ready(site: Served) -> None:
    place = Place.open(site)
    place.rebuild(wait=True)
    answer = place.post("/overlap", "seed", price="2.0")
    running = place.get(answer, "seed")
    assert f'hx-get="{answer}"' in running and "<progress" in running and "Refresh" in running
    assert "still running" in place.post(answer, "seed", 409, price="2.0")
    place.world.finish(Kind.DATA_ROOM, place.world.room, {**sides(), **place.answers()})
    ready = words(place.get(answer, "seed"))
    assert "The answer is ready Price: 2 units" in ready and "310" not in ready
    assert place.world.spent == 0
    assert "nothing was charged" in place.post(answer, "seed", 409, price="1")
    assert place.post(answer, "seed", price="2.0") == answer
    assert "310 ± 23" in words(place.get(answer, "seed"))
    place.rebuild()
    assert "earlier data" in words(place.get("/overlap", "seed"))


def test_hidden_counts_and_failures_are_states(site: Served) -> None:
    place = Place.open(site)
    answers = place.answers()
    for each in answers["overlap_statistics"]["overlap"].values():
        if isinstance(each, dict):
            each["rows"][0] |= {"overlap_size": None, "is_empty": False, "match_rate_error": None}
    place.rebuild(wait=True)
    place.world.finish(Kind.DATA_ROOM, place.world.room, {**sides(), **answers})
    found = words(place.get(place.post("/overlap", "seed", price="2.0"), "seed"))
    assert "Matched customers hidden There are enough" in found and "62.0 % Matched" in found
    place.rebuild(wait=True)
    place.world.finish(Kind.DATA_ROOM, place.world.room, sides())
    assert "lacks the data" in place.post("/overlap", "seed", 409, price="2.0")
    assert "lacks the data" in words(place.get("/overlap", "seed"))


def test_a_spent_budget_is_shown_before_asking(site: Served) -> None:
    place = Place.open(site)
    site.installation.catalog.pairs.spend_rest("unknown", {place.world.budget.pair.id})
    page = place.get("/insights", "agency")
    assert "Too few units are left" in words(page) and "<button disabled" in page
    assert "budget" in place.post("/insights", "agency", 403, price="22.0", audience_type="loyal")


def test_insights_are_charts_tables_csv_and_a_print_view(site: Served) -> None:
    place = Place.open(site)
    assert "Price: 22 units" in words(place.get("/insights", "agency"))
    answer = place.post("/insights", "agency", price="22.0", audience_type="loyal")
    page = place.get(answer, "agency")
    found = words(page)
    assert place.world.spent == 220
    assert page.count("<svg") == 3 and page.count('class="whisker"') == 3
    assert page.count('class="axis"') == 3, "a line marks 1"
    assert "2.1 ± 0.21" in found and "30.0 % ± 2.1 %" in found and "1,230 ± 45" in found
    assert "too few to tell" in found and "20-29 · f" in found
    printed = place.get(f"{answer}/print", "agency")
    assert printed.count("<details open") == 4 and "<button" not in printed.split("<main")[1]
    reply = site.browser(email("agency")).get(f"{answer}/figures.csv")
    assert reply.headers["content-type"].startswith("text/csv")
    assert "attachment" in reply.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [row["interest"] for row in rows] == [SCRIPT, "'=1+1", "", "", ""], "no formula"
    assert (rows[0]["affinity_ratio"], rows[0]["affinity_error"], rows[1]["affinity_ratio"]) == ("2.1", "0.21", "")


@pytest.mark.parametrize("tab", ["overlap", "insights", "privacy", "activity"])
def test_the_menu_marks_the_page(site: Served, tab: str) -> None:
    place = Place.open(site)
    address = place.address(f"/{tab}")
    assert f'<a href="{address}" aria-current="page">' in place.get(address, "agency")


def test_unpaid_figures_have_no_file(site: Served) -> None:
    place = Place.open(site)
    job = place.world.ask("agency", "insights", audience={"audience_type": "loyal"})
    for path in ("figures.csv", "print"):
        assert "2.1" not in words(place.get(f"/insights/{job['id']}/{path}", "agency", 404))
    assert place.world.spent == 0


def test_rooms_that_cannot_answer_say_why(site: Served) -> None:
    empty = Place.open(site, ready=False)
    for path, group in (("/overlap", "seed"), ("/insights", "agency")):
        assert "Data are missing" in words(empty.get(path, group))
    assert "Provision the base audience first" in empty.post("/overlap", "seed", 409, price="100")


def test_lists_show_what_was_delivered_and_what_it_reveals(site: Served) -> None:
    place = Place.open(site)
    assert "You have not delivered a list yet" in words(place.get("/lists", "export"))
    files = {"part-00000.csv": b"u1\nu2\n"}
    one, _ = place.delivered(files, holdout="5%", gzip=True)
    found = words(place.get("/lists", "export"))
    assert f"Ready {SCRIPT} ready" in found and "5% of the users" in found and "compressed" in found
    page = words(place.get(one, "export"))
    assert "Every user in it is a customer" in page and "complete list" in page
    assert f"Checksum (SHA-256) {CHECKSUM}" in page
    reply = site.browser(email("export")).get(f"{one}/files/part-00000.csv")
    assert (reply.status_code, reply.content) == (200, files["part-00000.csv"])
    assert "attachment" in reply.headers["content-disposition"]
    place.get(f"{one}/files/list.json", "export", 403)


def test_the_changes_since_a_list_are_delivered_at_a_shown_price(site: Served) -> None:
    place = Place.open(site)
    one, _ = place.delivered({"part-00000.csv": b"u1\n"}, holdout="5%")
    assert "Price: 2 units" in words(place.get(one, "export"))
    assert "nothing was charged" in place.post(one, "export", 409, price="0")
    later = place.post(one, "export", price="2.0")
    assert "<progress" in place.get(later, "export")
    place.finish_list({"part-00000.csv": b"u2\n", "added-00000.csv": b"u2\n", "removed-00000.csv": b"u1\n"})
    page = words(place.get(later, "export"))
    assert "since an earlier list" in page and "to add" in page and "to remove" in page and "5% of" in page


@pytest.mark.parametrize(
    ("path", "group"),
    [("/overlap", "base"), ("/insights", "seed"), ("/lists", "agency")],
    ids=["overlap", "insights", "lists"],
)
def test_pages_without_permission_are_refused_and_audited(site: Served, path: str, group: str) -> None:
    place = Place.open(site)
    place.world.new_lines()
    place.get(path, group, 403)
    assert f'href="{place.address(path)}"' not in place.get("", group), "the menu has no such page"
    place.get(place.address(path), "owner", 403)


def test_answers_and_lists_of_others_do_not_exist(site: Served) -> None:
    place, other = Place.open(site), Place.open(site)
    answer = place.post("/overlap", "seed", price="2.0")
    one, _ = place.delivered({"part-00000.csv": b"u1\n"})
    place.get(answer, "agency", 403)
    place.post(answer, "agency", 403, price="2.0")
    other.get(f"/overlap/{answer.rsplit('/', 1)[1]}", "seed", 404)
    other.get(f"/lists/{one.rsplit('/', 1)[1]}", "export", 404)
    other.get(f"/lists/{one.rsplit('/', 1)[1]}/files/part-00000.csv", "export", 404)
    place.get(f"{one}/files/part-00000.csv", "agency", 403)
    refused = [each for each in place.world.lines() if each.get("outcome") == "refused"]
    assert {"get_job", "list_jobs"} <= {str(each["operation"]) for each in refused}


@pytest.mark.parametrize("text", ["=1+1", " =1", "x;=HYPERLINK(1)", "a\n@b", "\uff1d1", "\tx", "-1"], ids=repr)
def test_no_text_becomes_a_formula(text: str) -> None:
    assert _harmless(text) == f"'{text}"
    assert _harmless("Sport; tennis - outdoor") == "Sport; tennis - outdoor"
