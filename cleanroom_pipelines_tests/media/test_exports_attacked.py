"""Contract: what lists and results together must not disclose, in a real room.

A list discloses no more than the result that was paid; a changed seed is a new question and paid again; whatever
discloses by design is labelled everywhere; a spent budget returns nothing more, however a question is phrased.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from cleanroom_pipelines.catalog import Kind, LedgerLine
from cleanroom_pipelines.media.errors import BudgetSpentError, MediaError
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines_tests.runs.room_worlds import ADVERTISER, PUBLISHER, RoomWorld, seed_file

from .. import worlds

LIKE = {"kind": "lookalike", "source": {"kind": "seed", "audience_type": "loyal"}, "reach": 20}


class Asking:
    """The advertiser's requests, and the worker that executes them."""

    def __init__(self, world: RoomWorld) -> None:
        self.world = world
        self.service = MediaService(world.installation)

    def call(self, method: str, *, email: str = ADVERTISER, **params: Any) -> Any:
        return self.service.call(email, method, {"room_id": self.world.room.id, **params})

    def create(self, name: str, definition: dict[str, Any]) -> str:
        return str(self.call("create_audience", name=name, definition=definition, shared_with=[])["id"])

    def answer(self, kind: str, **params: Any) -> Any:
        job = self.call("start_job", kind=kind, **params)
        self.world.run()
        return self.call("get_job_result", job_id=job["id"])

    def price(self, kind: str, **params: Any) -> dict[str, Any]:
        return dict(self.call("get_estimate", kind=kind, **params))

    def spent(self) -> float:
        return float(self.call("get_room")["ledger"]["spent"])

    def kinds(self) -> list[str]:
        """Return the kinds of the paid questions."""
        catalog = self.world.installation.catalog
        (pair,) = catalog.pairs.all()
        return sorted(line.kind for line in catalog.pairs.ledger_lines(pair.id))

    def listed(self, audience_id: str) -> tuple[list[str], list[str]]:
        """Return the lines of a list in order, and its declared disclosures."""
        job = self.call("start_job", kind="user_list", audience={"kind": "custom", "id": audience_id})
        self.world.run()
        told = self.call("get_job_result", job_id=job["id"])
        found: list[str] = []
        for file in told["files"]:
            with self.service.opening(ADVERTISER, job["id"], file["name"]) as path:
                found += path.read_text().splitlines()
        return found, told["reveals"]

    def users(self, audience_id: str) -> set[str]:
        return set(self.listed(audience_id)[0])


@pytest.fixture
def asking(data_room: RoomWorld) -> Iterator[Asking]:
    with worlds.without_pictures():
        yield Asking(data_room)
    data_room.installation.audit.close()


def test_a_lookalike_list_is_unordered_and_paid_once_for_all_reaches(asking: Asking) -> None:
    world = asking.world
    before = asking.price("audience_size", definition=LIKE | {"exclude_seed_audience": False})
    assert before["is_at_most"], "the size of the seed, from which the price follows, is not paid"
    wide = asking.create("wide", {**LIKE, "exclude_seed_audience": False})
    world.run()
    after = asking.spent()
    assert asking.kinds() == ["base", "figures", "lookalike", "size"]
    assert after <= 10 + before["units"]
    users, reveals = asking.listed(wide)
    assert len(users) == len(set(users)) == len(world.users) // 5
    assert reveals == []
    assert world.seeds["loyal"] & set(users), "nobody is removed"
    first = set(users[: len(users) // 10])
    share = len(first & world.seeds["loyal"]) / len(first)
    assert abs(share - len(world.seeds["loyal"] & set(users)) / len(users)) < 0.2, "and nobody is put first"
    assert users != sorted(users)
    narrow = asking.create("narrow", {**LIKE, "reach": 10, "exclude_seed_audience": False})
    asked = asking.answer("lookalike_statistics", audience={"kind": "custom", "id": narrow})
    assert asked["privacy"]["price"] == 0
    assert asking.users(narrow) < set(users)
    without = asking.create("without", {**LIKE, "exclude_seed_audience": True})
    left, reveals = asking.listed(without)
    assert not set(left) & world.seeds["loyal"]
    assert set(users) - world.seeds["loyal"] <= set(left), "the same ranking, with others in the places left"
    assert reveals == ["seed"]
    assert asking.spent() == after, "every reach, list and figure of one seed is free"


def test_a_changed_seed_is_a_new_question_and_paid_again(asking: Asking) -> None:
    """Comparing two lists compares two noisy vectors, and both were paid."""
    world = asking.world
    asking.create("like", {**LIKE, "exclude_seed_audience": False})
    world.run()
    once = asking.spent()
    victim = min(set(world.users) - world.seeds["loyal"])
    world.provision_seeds(seed_file({"loyal": world.seeds["loyal"] | {victim}}))
    world.run()
    assert asking.kinds().count("lookalike") == asking.kinds().count("size") == 2
    # by the released size of the new seed, which is about the same; the base's figures are paid already
    assert asking.spent() == pytest.approx(2 * once - 10, abs=12)
    # a third one is more than is left
    world.provision_seeds(seed_file({"loyal": world.seeds["loyal"] - {min(world.seeds["loyal"])}}))
    spent = asking.spent()
    world.installation.catalog.pairs.charge(
        world.installation.catalog.pairs.all()[0].id, [LedgerLine("f" * 64, "size", round((99 - spent) * 10))]
    )
    world.run()
    (like,) = [
        each for each in world.installation.catalog.rooms.custom_audiences(world.room.id) if each.name == "like"
    ]
    newest = world.installation.catalog.resources.newest_version(Kind.CUSTOM_AUDIENCE, like.id)
    assert newest.status_code == "PRIVACY_BUDGET_SPENT"
    with pytest.raises(BudgetSpentError):
        asking.answer("audience_size", audience={"kind": "custom", "id": like.id})
    assert "lookalike" not in newest.artifacts, "nothing was computed"
    # and the seed of before is free
    world.provision_seeds()
    world.run()
    assert world.users_of(like)
    assert asking.kinds().count("lookalike") == 2


def test_renaming_a_type_or_repeating_a_file_is_free(asking: Asking) -> None:
    world = asking.world
    size = asking.answer("audience_size", definition={"kind": "remarketing", "audience_type": "loyal"})
    spent = asking.spent()
    world.provision_seeds()  # the same ids, from another upload
    world.run()
    again = asking.answer("audience_size", definition={"kind": "remarketing", "audience_type": "loyal"})
    world.provision_seeds(world.files["seeds"].replace(",loyal", ",faithful"))
    world.run()
    renamed = asking.answer("audience_size", definition={"kind": "remarketing", "audience_type": "faithful"})
    assert size["size"] == again["size"] == renamed["size"], "with the same noise, or it could be averaged out"
    assert asking.spent() == spent


def test_two_types_with_the_same_ids_are_one_seed(asking: Asking) -> None:
    world = asking.world
    both = world.files["seeds"] + world.files["seeds"].replace(",loyal", ",double")
    world.provision_seeds(both)
    world.run()
    double = {"operator": "DIFF", "source": {"kind": "seed", "audience_type": "double"}, "filters": None}
    rule = {"kind": "rule_based", "source": LIKE["source"], "filters": None, "combinators": [double]}
    assert asking.answer("audience_size", definition=rule)["size"] is None, "nobody, whatever the names"
    asking.create("one", {**LIKE, "exclude_seed_audience": False})
    world.run()
    spent = asking.spent()
    named = {**LIKE, "source": {"kind": "seed", "audience_type": "double"}, "exclude_seed_audience": False}
    asking.create("two", named)
    world.run()
    assert asking.spent() == spent


def test_disclosing_lists_are_labelled_everywhere(asking: Asking) -> None:
    world = asking.world
    rule = {
        "kind": "rule_based",
        "source": {"kind": "base"},
        "filters": None,
        "combinators": [{"operator": "DIFF", "source": LIKE["source"], "filters": None}],
    }
    wanted = {
        "REMARKETING": {"kind": "remarketing", "audience_type": "loyal"},
        "EXCLUSION": rule,
        "seed": {**LIKE, "exclude_seed_audience": True},
    }
    for label, definition in wanted.items():
        audience = asking.create(label, definition)
        users, reveals = asking.listed(audience)
        assert users
        assert reveals == [label]
        (made,) = world.installation.catalog.resources.list(Kind.AUDIENCE_LIST, parent_id=audience).items
        version = world.installation.catalog.resources.current_version(Kind.AUDIENCE_LIST, made.id)
        assert version is not None
        reference = ArtifactReference("audience_user_list", made.id, version.artifacts["audience_user_list"])
        assert world.installation.store.manifest(reference).facts["reveals"] == [label]
        shown = [
            entry.value
            for event in worlds.materializations(world.instance, "audience_user_list", made.id)
            for name, entry in event.metadata.items()
            if name == "revealed by design"
        ]
        assert shown == [label]


def test_the_full_ensemble_needs_both_approvals_and_is_labelled(asking: Asking) -> None:
    world = asking.world
    like = asking.create("like", {**LIKE, "exclude_seed_audience": False})
    world.run()
    private = asking.listed(like)[0]
    wanted = asking.call("propose", kind="full_lookalike")
    one = asking.create("one approved", {**LIKE, "reach": 19, "exclude_seed_audience": False})
    assert asking.listed(one)[1] == []
    assert asking.call("approve", email=PUBLISHER, proposal_id=wanted["id"])["is_effective"]
    full = asking.create("both approved", {**LIKE, "reach": 18, "exclude_seed_audience": False})
    users, reveals = asking.listed(full)
    assert reveals == ["ensemble"]
    assert len(users) < len(private)


def test_both_providers_can_refill_a_spent_budget(asking: Asking) -> None:
    catalog = asking.world.installation.catalog
    definition = {"kind": "remarketing", "audience_type": "loyal"}

    def size(**params: Any) -> dict[str, Any]:
        told = asking.answer("audience_size", **params)
        return {name: told[name] for name in ("size", "reason", "noise")}

    first = size(definition=definition)
    assert asking.spent() == 12, "the base's figures, and one count"
    rule = {
        "kind": "rule_based",
        "source": {"kind": "seed", "audience_type": "loyal"},
        "filters": {"operator": "OR", "filters": []},
        "combinators": [
            {"operator": "UNION", "source": {"kind": "seed", "audience_type": "loyal"}, "filters": None}
        ],
    }
    assert size(definition=rule) == first, "the same question in other words"
    assert size(audience={"kind": "seed", "audience_type": "loyal"}) == first
    assert asking.spent() == 12
    (pair,) = catalog.pairs.all()
    assert catalog.pairs.charge(pair.id, [LedgerLine("f" * 64, "size", 870)]) is not None
    new = {"kind": "remarketing", "audience_type": "new"}
    with pytest.raises(BudgetSpentError) as caught:
        size(definition=new)
    assert (caught.value.attributes["cost"], caught.value.attributes["spent"]) == (2, 99)
    assert size(definition=definition) == first, "what was paid for stays free"
    wanted = asking.call("propose", kind="refill", units=5)
    assert wanted["approved_by"] == ["adv.example"]
    with pytest.raises(BudgetSpentError):
        size(definition=new)
    asking.call("approve", proposal_id=wanted["id"])
    with pytest.raises(BudgetSpentError):
        size(definition=new)
    assert asking.call("approve", email=PUBLISHER, proposal_id=wanted["id"])["is_effective"]
    assert size(definition=new)["size"]
    assert asking.call("get_room")["ledger"]["total"] == 105


def test_deleting_names_only_the_dependents(asking: Asking) -> None:
    lookalike = asking.create("like", {**LIKE, "exclude_seed_audience": False})
    rule = {
        "kind": "rule_based",
        "source": {"kind": "custom", "id": lookalike},
        "filters": None,
        "combinators": [],
    }
    asking.create("on top", rule)
    with pytest.raises(MediaError) as caught:
        asking.call("delete_audiences", audience_ids=[lookalike])
    assert caught.value.attributes["names"] == ["on top"]
    assert caught.value.attributes["n_others"] == 0
    asking.call("delete_audiences", audience_ids=[lookalike], delete_dependent_audiences=True)
    asking.world.run()
    assert asking.world.installation.catalog.rooms.custom_audiences(asking.world.room.id) == ()


def test_drafts_are_deleted_after_a_day(asking: Asking) -> None:
    asking.answer("audience_size", definition={"kind": "remarketing", "audience_type": "loyal"})
    installation = asking.world.installation
    assert len(installation.catalog.rooms.custom_audiences(asking.world.room.id, hidden=True)) == 1
    delete_superseded(installation, installation.clock() + timedelta(days=2))
    asking.world.run()
    assert installation.catalog.rooms.custom_audiences(asking.world.room.id, hidden=True) == ()


def test_the_audit_view_names_no_definition_of_others(asking: Asking) -> None:
    made = asking.create("secret plan", {**LIKE, "exclude_seed_audience": False})
    mine = asking.call("get_audit_log")["entries"]
    theirs = asking.call("get_audit_log", email=PUBLISHER)["entries"]
    assert made in str(mine)
    assert made not in str(theirs)
    assert "create_audience" in {entry["action"] for entry in theirs}
    assert "secret plan" not in str(mine) + str(theirs)
    assert all(entry["at"] for entry in mine)


def test_a_definition_warns_about_missing_data(asking: Asking) -> None:
    world = asking.world

    def warnings() -> dict[str, int]:
        told = asking.answer("audiences")["audiences"]
        return {each["name"]: len(each["staleness_warnings"]) for each in told if each["kind"] != "seed"}

    asking.create("loyal", {"kind": "remarketing", "audience_type": "loyal"})
    wanted = {"attribute": "segments", "operator": "CONTAINS_ANY_OF", "values": ["segment 7"]}
    filters = {"operator": "AND", "filters": [wanted]}
    asking.create(
        "seven", {"kind": "rule_based", "source": {"kind": "base"}, "filters": filters, "combinators": []}
    )
    assert warnings() == {"loyal": 0, "seven": 0}
    world.provision_seeds(seed_file({"new": world.seeds["new"]}).replace(",loyal", ",new"))
    world.files["segments"] = world.files["segments"].replace("segment 7\n", "segment 99\n")
    world.provision_base()
    world.run()
    assert warnings() == {"loyal": 1, "seven": 1}, "they stay, and say so"
