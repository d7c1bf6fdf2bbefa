"""Pages of audiences, over HTTP against a real `cleanroom serve` without a worker.

Contract: forms work without scripts, keep what was typed, and say what is wrong next to the field; a price is
shown before a question is asked, and paid once; states are shown in words; only those who may see or change an
audience do; texts of users are escaped; dependents are shown before a deletion.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from cleanroom_pipelines.catalog import CustomAudience, Kind
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.privacy import COUNT
from cleanroom_pipelines.runs.budgets import Question
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.terms import Permission
from cleanroom_pipelines_tests.media.groups import LOOKALIKE, REMARKETING, MediaWorld, custom, email, rule
from cleanroom_pipelines_tests.server.server import serving

from .sites import Served, words

P = Permission
GROUPS = {
    "base": (P.PROVIDE_BASE_AUDIENCE, P.EXPORT_AUDIENCE),
    "seed": (P.PROVIDE_SEED_AUDIENCE, P.VIEW_OVERLAP, P.CREATE_CUSTOM_AUDIENCE, P.EXPORT_AUDIENCE),
    "agency": (P.CREATE_CUSTOM_AUDIENCE,),
    "owner": (),
}
SCRIPT = "<script>alert(1)</script>"
VALUES = {"age": ["20-29", SCRIPT], "gender": ["f", "m"], "segments": [f"interest {n:02}" for n in range(20)]}
NOISE = {"plus_minus": 23, "statement": "± 23 at 90 %"}
ROWS = [
    {"reach": n, "size": 100 * n, "tpr": None if n < 3 else round(n / 40, 3), "tpr_error": 0.05, "fpr": n / 100}
    for n in range(1, 31)
]
STATISTICS = {
    "auc": 0.83,
    "auc_error": 0.04,
    "fpr": [n / 100 for n in range(101)],
    "tpr": [min(1.0, n / 50) for n in range(101)],
    "tpr_error": [0.05] * 101,
    "reach": ROWS,
    "seed_size": 1200,
    "addressable_size": 10_000,
    "test_set_sizes": {"seed": 1200, "others": 8800},
    "noise": NOISE,
    "explanation": [{"attribute": "segments", "value": "interest 07", "strength": 9.5}],
}
Fields = Mapping[str, str | Sequence[str]]


@dataclass
class Site(Served):
    """A served room."""

    world: MediaWorld

    @property
    def root(self) -> str:
        return f"/console/rooms/{self.world.room}/audiences"

    def get(self, path: str = "", group: str = "seed", status: int = 200) -> str:
        return self.page(email(group), path if path.startswith("/console") else self.root + path, status)

    def post(self, path: str, fields: Fields, group: str = "seed", status: int = 303) -> str:
        """Send a form; return the address of the next page, or the page itself if there is none."""
        return self.submit(email(group), self.root + path, fields, status)

    def created(self, name: str) -> str:
        room = self.installation.catalog.rooms.custom_audiences(self.world.room)
        return next(each.id for each in room if each.name == name)

    def build(
        self, audience: str, size: int | None = 1200, *, text: str = "", reason: str = "too_few", **documents: Any
    ) -> None:
        """Finish an audience as a run would, with a size that has a price if it has a text."""
        questions = [Question.of("size", "content", text, COUNT).as_dict()] if text else []
        released = {"size": size, "reason": None if size else reason, "noise": NOISE}
        found = {"released": released, "questions": questions, "is_enough": True, "reveals": []}
        artifacts = {"custom_audience": {"audience": found}, **documents}
        self.world.finish(Kind.CUSTOM_AUDIENCE, audience, artifacts)


def value_of(page: str, name: str) -> str:
    """Return the value of a hidden field."""
    found = re.search(rf'name="{re.escape(html.escape(name))}" value="([^"]*)"', page)
    assert found, f"{name} is not in the form"
    return html.unescape(found[1])


def ingest(world: MediaWorld) -> None:
    """Finish the room's newest version with data of both sides, as a run would."""
    attributes = [{"name": name, "values": values} for name, values in VALUES.items()]
    documents: dict[str, Any] = {
        "base_audience": {},
        "seed_audiences": {
            "digests": {"loyal": "l"},
            "seeds": {"by_type": {"loyal": {"n_unique_ids": 500}}},
        },
        "data_attributes": {"attributes": {"attributes": attributes}},
    }
    world.finish(Kind.DATA_ROOM, world.room, documents)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("audiences") / "home"
    installation = Installation(Settings(home, seed_floor=1))
    for group in ("agency", "owner"):
        installation.catalog.users.create_user(email(group))
    world = MediaWorld.open(installation, GROUPS)
    world.provision()
    ingest(world)
    with serving(home, "--no-worker") as server:
        yield Site(installation, server.url, world)


@pytest.fixture
def ready(site: Site) -> str:
    """An audience of the advertiser's that is built and not paid for."""
    name = f"Ready {site.world.installation.token_hex(4)} {SCRIPT}"
    audience = site.world.audience("seed", rule(), name=name)
    site.build(audience, text=audience)
    return audience


def test_a_rule_is_edited_without_scripts(site: Site) -> None:
    page = site.get("/new/rule_based")
    assert "Start with all users of the publisher." in words(page)
    fields: dict[str, str | list[str]] = {"b0-source": "base", "name": "Kept"}
    page = site.post("/new/rule_based", fields | {"do": "add:0:age"}, status=200)
    assert 'value="Kept"' in page
    assert "A condition has no values yet." in words(page)
    fields |= {"b0-c0-attribute": "age", "b0-c0-operator": "CONTAINS_ANY_OF", "b0-c0-values": ["20-29", SCRIPT]}
    page = site.post("/new/rule_based", fields | {"do": "add-block"}, status=200)
    assert SCRIPT not in page
    assert f"but only those whose age is “20-29” or “{SCRIPT}”." in words(page)
    fields |= {"b1-source": "seed:loyal", "b1-operator": "DIFF"}
    page = site.post("/new/rule_based", fields | {"do": "add:1:segments"}, status=200)
    assert "Leave out the matched customers of type “loyal”, but only those with the interest" in words(page)
    assert "multiple" in page, "twenty values are a list"
    page = site.post("/new/rule_based", fields | {"do": "remove-block:1"}, status=200)
    assert "Leave out" not in re.sub(r"<option.*?</option>", "", page)
    page = site.post("/new/rule_based", fields | {"do": "remove:0:0"}, status=200)
    assert "Start with all users of the publisher. Leave out" in words(page)
    for odd in ("remove-block:9", "remove:0:99", "add:0:salary", "add:x", "remove-block:0"):
        site.post("/new/rule_based", fields | {"do": odd}, status=200)


def test_errors_of_a_rule_stand_beside_its_blocks(site: Site) -> None:
    fields = {
        "b0-source": "base",
        "b0-c0-attribute": "gender",
        "b0-c0-operator": "CONTAINS_ANY_OF",
        "name": "Kept",
    }
    page = site.post("/new/rule_based", fields | {"do": "create"}, status=400)
    assert 'value="Kept"' in page
    assert re.search(r'id="b0-c0">\s*<legend>[^<]*</legend>\s*<p class="wrong">', page)
    page = site.post("/new/rule_based", {"b0-source": "base", "do": "create", "name": ""}, status=400)
    assert 'id="name-problem"' in page
    for name in ("x" * 300, "two\nlines"):
        page = site.post("/new/rule_based", {"b0-source": "base", "do": "create", "name": name}, status=400)
        assert 'id="name-problem"' in page
    for name, sentence in (
        ("", "Give the audience a name."),
        (" ", "Give the audience a name."),
        ("x" * 64, "at most 63"),
    ):
        found = words(
            site.post("/new/rule_based", {"b0-source": "base", "do": "create", "name": name}, status=400)
        )
        assert sentence in found and "Unicode" not in found and "The name is invalid" not in found
    site.post("/new/rule_based", {"b0-source": "base", "do": "create", "name": "Twice"})
    page = site.post("/new/rule_based", {"b0-source": "base", "do": "create", "name": "Twice"}, status=409)
    assert "another audience with this name" in words(page)
    site.post("/new/rule_based", {"b0-source": "custom:unknown", "name": "x", "do": "create"}, status=403)
    site.get("/new/other", status=404)


def test_a_draft_s_size_is_paid_once_at_the_shown_price(site: Site) -> None:
    fields = {"b0-source": "base", "b0-c0-attribute": "age", "b0-c0-operator": "NOT_EMPTY"}
    page = site.post("/new/rule_based", fields | {"do": "size"}, status=400)
    assert "Price: 2 units" in words(page)
    assert value_of(page, "priced") == "2"
    draft = site.post("/new/rule_based", fields | {"do": "size", "priced": "2"})
    page = site.get(draft)
    assert 'hx-trigger="every 3s"' in page
    assert "Refresh" in words(page)
    (hidden,) = site.world.installation.catalog.rooms.custom_audiences(site.world.room, hidden=True)
    before = site.world.spent
    site.build(hidden.id, 4300, text="the draft")
    page = site.get(draft)
    assert "4,300 ± 23" not in words(page)
    assert value_of(page, "price") == "2"
    assert site.world.spent == before, "opening a page pays nothing"
    to = f"/drafts/{draft.rpartition('/')[2]}"
    assert "price" in words(site.post(to, {"price": "1"}, status=409))
    assert site.world.spent == before
    site.post(to, {"price": "2"})
    assert "4,300 ± 23" in words(site.get(draft))
    assert site.world.spent == before + COUNT.tenths
    job = draft.rpartition("/")[2]
    assert "whose age is known" in words(site.get(f"/new/rule_based?draft={job}"))
    assert 'id="name-problem"' in site.post(
        "/new/rule_based", {"draft": job, "name": "", "do": "create"}, status=400
    )
    made = site.post("/new/rule_based", {"draft": job, "name": "From a draft", "do": "create"})
    record = site.world.installation.catalog.get(CustomAudience, made.partition("?")[0].rpartition("/")[2])
    assert record.definition["filters"]["filters"][0]["operator"] == "NOT_EMPTY"
    for path in (f"/drafts/{job}", f"/new/rule_based?draft={job}"):
        site.get(path, "agency", 403)


def test_a_lookalike_shows_its_price_and_then_thirty_rows(site: Site) -> None:
    page = site.get("/new/lookalike")
    price = value_of(page, "priced-seed:loyal")
    assert f"Price: at most {price} units" in words(page)
    assert 'type="range"' in page
    assert page.count("<option value=") == 30
    fields = {"source": "seed:loyal", "reach": "31", "name": "Like", "do": "create", "priced-seed:loyal": price}
    page = site.post("/new/lookalike", fields, status=400)
    assert 'id="reach-problem"' in page
    assert 'value="Like"' in page
    page = site.post("/new/lookalike", fields | {"reach": "20", "priced-seed:loyal": "1"}, status=400)
    assert "not seen this price" in words(page)
    made = site.post("/new/lookalike", fields | {"reach": "20", "exclude": "yes"})
    assert "being built" in words(site.get(made))
    id_ = site.created("Like")
    site.build(id_, 2000, lookalike_statistics={"statistics": {"result": STATISTICS}})
    page = site.get(made)
    assert "2,000 ± 23" in words(page)
    assert "10 % 1,000 ± 23 25 % ± 5 % 30 % ± 6 % 10 % ± 1 %" in words(page)
    assert "2 % 200 ± 23 too few to tell" in words(page)
    assert '<title id="roc-title">' in page
    assert "0.83 ± 0.04" in words(page)
    assert "interest: interest 07" in words(page)
    page = site.get(f"/new/lookalike?from={id_}")
    assert "20 %: about 2,000 users" in words(page)
    assert page.count('<th scope="row">') == 30
    assert re.search(r'name="reach"[^>]*value="20"', page)


def test_figures_that_are_hidden_or_too_few_are_words(site: Site) -> None:
    rows = [{**each, "size": None, "tpr_error": None} for each in ROWS]
    hidden = {
        **STATISTICS,
        "auc_error": None,
        "tpr_error": None,
        "reach": rows,
        "seed_size": None,
        "test_set_sizes": {"seed": None, "others": None},
        "explanation": [{"attribute": "age", "value": SCRIPT, "strength": None}],
    }
    empty = [{"reach": n, "size": 40, "tpr": None, "tpr_error": None, "fpr": None} for n in range(1, 31)]
    nothing = {"auc": None, "auc_error": None, "fpr": None, "tpr": None, "tpr_error": None}
    few = {**STATISTICS, **nothing, "reach": empty, "explanation": []}
    shown = []
    for name, statistics in (("hidden", hidden), ("few", few)):
        audience = site.world.audience("seed", LOOKALIKE, name=name)
        site.build(audience, None, reason=name, lookalike_statistics={"statistics": {"result": statistics}})
        shown.append(words(site.get(f"/{audience}")))
    assert "This data room hides the sizes of audiences." in shown[0]
    assert f"age: {SCRIPT}" in shown[0]
    assert "ROC curve The curve" in shown[0], "the curve is drawn without its error"
    assert "Area under the ROC curve too few to tell" in shown[1]
    assert "No value stands out." in shown[1]


@pytest.mark.parametrize("kind", ["remarketing", "exclusion"])
def test_an_audience_of_customers_says_what_its_list_reveals(site: Site, kind: str) -> None:
    page = site.get(f"/new/{kind}")
    assert "reveals" in words(page)
    made = site.post(f"/new/{kind}", {"audience_type": "loyal", "name": kind, "do": "create"})
    id_ = site.created(kind)
    site.build(id_, None, text=kind)
    before, page = site.world.spent, site.get(made)
    assert site.world.spent == before, "looking costs nothing"
    assert "Ask for the size" in words(page)
    page = site.post(f"/{id_}/size", {"priced": "1"}, status=400)
    assert "You have not seen this price yet." in words(page)
    page = site.get(site.post(f"/{id_}/size", {"priced": value_of(page, "priced")}))
    assert "too few to tell" in words(page)
    assert site.world.spent == before + COUNT.tenths
    assert "loyal" in words(site.get())
    site.post(f"/new/{kind}", {"audience_type": "", "name": "x", "do": "create"}, status=400)


def test_states_are_shown_and_a_failed_audience_is_built_again(site: Site) -> None:
    world = site.world
    failed = world.audience("seed", LOOKALIKE, name="Failed", shared=["base"])
    assert 'hx-get="' in site.get()
    assert "Once the audience is built" in words(site.get(f"/{failed}"))
    world.fail(Kind.CUSTOM_AUDIENCE, failed, StatusCode.INSUFFICIENT_MATCHING_SEED, "Too few matched users.")
    page = site.get(f"/{failed}")
    assert "Too few matched users." in words(page)
    assert "Too few matched users." not in words(site.get(f"/{failed}", "base")), "it may not ask about audiences"
    assert "You have not seen this price yet." in words(site.post(f"/{failed}/refresh", {}, status=400))
    site.post(f"/{failed}/refresh", {"priced": value_of(page, "priced")})
    assert (
        world.installation.catalog.resources.newest_version(Kind.CUSTOM_AUDIENCE, failed).status
        == "CREATE_PENDING"
    )
    assert "being built" in words(site.post(f"/{failed}/refresh", {"priced": "99"}, status=409))


def test_an_audience_is_published_and_withdrawn(site: Site, ready: str) -> None:
    base = site.world.ids["base"]
    site.get(f"/{ready}", "base", 403)
    assert "shared with" in words(site.get(site.post(f"/{ready}/share", {"participants": [base]})))
    page = site.get(f"/{ready}", "base")
    assert SCRIPT in words(page), "its name is shown as it is"
    assert "Save" not in words(page)
    assert "Ask for the size" not in words(page)
    assert "from: seed" in words(site.get("", "base"))
    site.post(f"/{ready}/share", {}, "base", 403)
    assert "does not belong" in words(site.post(f"/{ready}/share", {"participants": ["x"]}, status=400))
    site.post(f"/{ready}/share", {})
    site.get(f"/{ready}", "base", 403)


def test_dependents_are_shown_before_a_deletion(site: Site, ready: str) -> None:
    world = site.world
    world.call("seed", "create_audience", room_id=world.room, name="Dependent", definition=rule(custom(ready)))
    world.call(
        "seed", "share_audiences", room_id=world.room, audience_ids=[ready], participant_ids=[world.ids["agency"]]
    )
    world.call("agency", "create_audience", room_id=world.room, name="Theirs", definition=rule(custom(ready)))
    page = site.get(f"/{ready}/delete")
    assert "Dependent" in words(page)
    assert "Theirs" not in words(page)
    assert "1 more that you cannot see" in words(page)
    assert value_of(page, "dependents") == "2"
    page = site.post(f"/{ready}/delete", {"dependents": "1"}, status=409)
    assert "Other audiences depend on this one." in words(page)
    site.post(f"/{ready}/delete", {"dependents": "2"}, "agency", 403)
    site.post(f"/{ready}/delete", {"dependents": "2"})
    assert "Dependent" not in words(site.get())
    site.get(f"/{ready}", status=403)


def test_a_list_is_delivered_at_the_shown_price(site: Site, ready: str) -> None:
    page = site.get(f"/{ready}")
    assert "Deliver as a list" in words(page)
    fields = {"destination": "google", "holdout": "10%", "priced": "2"}
    page = site.post(f"/{ready}/deliver", fields, status=403)
    assert re.search(r'<option value="10%" selected>', page), "the input is kept"
    assert "You have not seen this price yet." in words(
        site.post(f"/{ready}/deliver", {"destination": "plain"}, status=400)
    )
    delivery = site.post(f"/{ready}/deliver", {"destination": "plain", "priced": "2"})
    assert 'hx-trigger="every 3s"' in site.get(delivery)
    (made,) = [
        each.id
        for each in site.world.installation.catalog.resources.iterate(Kind.AUDIENCE_LIST)
        if each.custom_audience_id == ready
    ]
    files = [{"name": "list 1.csv", "n_users": 2, "n_bytes": 4, "sha256": "ab" * 32}]
    document = {"list": {"files": files, "manifest": {}, "reveals": ["REMARKETING"]}}
    site.world.finish(
        Kind.AUDIENCE_LIST, made, {"audience_user_list": {"list": document["list"]}}, {"list 1.csv": b"a\nb\n"}
    )
    page = site.get(delivery)
    assert "which of the publisher's users are customers" in words(page)
    sent = site.browser(email("seed")).get(f"{delivery}/files/{quote('list 1.csv')}")
    assert sent.content == b"a\nb\n"
    assert sent.headers["content-disposition"].startswith("attachment")
    for path in (delivery, f"{delivery}/files/x", f"{delivery}/files/..%2f..%2fcatalog.db"):
        site.get(path, "base", 403)
    site.get(f"{delivery}/files/..%2f..%2fcatalog.db", status=403)


def test_current_figures_are_paid_at_the_shown_price(site: Site) -> None:
    page = site.get()
    assert "The figures about the publisher's users have not been paid for yet" in words(page)
    site.post("/figures", {"priced": "1"}, status=400)
    site.post("/figures", {"priced": value_of(page, "priced")}, "base", 403)
    site.post("/figures", {"priced": value_of(page, "priced")})
    assert "are not paid" not in words(site.get())


def test_an_outdated_audience_says_so(site: Site) -> None:
    audience = site.world.audience("seed", REMARKETING, name="Old")
    site.build(audience, text="old")
    site.world.call("base", "deprovision_base", room_id=site.world.room)
    site.world.finish(
        Kind.DATA_ROOM, site.world.room, {"seed_audiences": {"digests": {}, "seeds": {"by_type": {}}}}
    )
    page = site.get(f"/{audience}")
    assert "The base audience is not provisioned." in words(page)
    assert "The customer list is missing" in words(site.get("/new/remarketing"))
    assert "The customer list is missing" in words(site.get("/new/exclusion"))
    assert "The price is shown once" in words(site.get("/new/rule_based"))
    site.world.provision()
    ingest(site.world)


def test_others_see_nothing_and_every_refusal_is_audited(site: Site, ready: str) -> None:
    site.world.lines()
    for group in ("owner", "base"):
        site.get("/new/rule_based", group, 403)
        for path in ("/size", "/share", "/refresh", "/delete", "/deliver"):
            site.post(f"/{ready}{path}", {"priced": "9", "dependents": "0"}, group, 403)
        site.post("/new/remarketing", {"audience_type": "loyal", "name": "x", "do": "create"}, group, 403)
    refused = [line for line in site.world.lines() if line["way"] == "console" and line["outcome"] == "refused"]
    assert len(refused) >= 2 * 7
    assert site.get("", "owner"), "the list is empty for them"
    assert "New audience" not in words(site.get("", "owner"))


def test_another_room_s_address_shows_nothing_of_this_one(site: Site, ready: str) -> None:
    world = site.world
    groups = [{"emails": [email("seed")], "role": "seed", "permissions": [each.value for each in GROUPS["seed"]]}]
    room = {
        "name": "Other",
        "participants": groups,
        "collaboration_types": ["ENABLE_RULED_BASED_AUDIENCES"],
        "matching_ids": ["EMAIL"],
    }
    other = world.call("seed", "create_room", **room, hide_absolute_values=True, activation=[])["id"]
    root = f"/console/rooms/{other}/audiences"
    draft = site.post("/new/rule_based", {"b0-source": "base", "do": "size", "priced": "2"})
    delivery = site.post(f"/{ready}/deliver", {"destination": "plain", "priced": "2"})
    assert "There are no audiences yet" in words(site.get(root))
    for path in (f"/{ready}", f"/{ready}/delete"):
        site.get(root + path, status=403)
    for address in (draft, delivery):
        path = address.removeprefix(site.root)
        assert "does not exist in the data room" in words(site.get(root + path, status=404))
    site.get(f"{root}/new/rule_based?draft={draft.rpartition('/')[2]}", status=404)
    site.get(f"{root}/new/rule_based?from={ready}", status=403)
