"""Contract: contracts/media.md, sections 3 and 5: what lists and answers together must not tell.

Export minus export and seed in minus seed out; who spends the budget gets nothing more; a rewritten question is
free.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from cleanroom_pipelines.execution.retention import delete_superseded
from cleanroom_pipelines.media.errors import BudgetSpentError, MediaError, PermissionDeniedError
from cleanroom_pipelines.media.server import MediaService

from .. import worlds
from ..execution.room_worlds import ADVERTISER, PUBLISHER, RoomWorld, seed_file

LIKE = {"kind": "lookalike", "source": {"kind": "seed", "audience_type": "loyal"}, "reach": 20}


class Asking:
    """The advertiser, and the worker that answers."""

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

    def users(self, audience_id: str) -> set[str]:
        job = self.call("start_job", kind="user_list", audience={"kind": "custom", "id": audience_id})
        self.world.run()
        told = self.call("get_job_result", job_id=job["id"])
        found = set[str]()
        for file in told["files"]:
            with self.service.opening(ADVERTISER, job["id"], file["name"]) as path:
                found |= set(path.read_text().splitlines())
        return found


@pytest.fixture
def asking(data_room: RoomWorld) -> Iterator[Asking]:
    with worlds.without_pictures():
        yield Asking(data_room)
    data_room.installation.audit.close()


def test_a_lookalike_is_delivered_in_one_of_its_seed_modes(asking: Asking) -> None:
    with_seed = asking.create("in", {**LIKE, "exclude_seed_audience": False})
    without = asking.create("out", {**LIKE, "exclude_seed_audience": True})
    asking.world.run()
    assert asking.users(with_seed)
    with pytest.raises(PermissionDeniedError, match="seed mode"):
        asking.users(without)
    other = asking.create("narrow", {**LIKE, "reach": 10, "exclude_seed_audience": True})
    with pytest.raises(PermissionDeniedError, match="seed mode"):
        asking.users(other)


def test_export_minus_export_tells_of_nobody(asking: Asking) -> None:
    """The advertiser adds one customer to a seed and exports again: it gets the list of before."""
    world = asking.world
    audience = asking.create("again", {"kind": "remarketing", "audience_type": "loyal"})
    before = asking.users(audience)
    assert before == world.seeds["loyal"]
    for victim in sorted(set(world.users) - world.seeds["loyal"])[:2]:
        world.provision_seeds(seed_file({"loyal": world.seeds["loyal"] | {victim}}))
        world.run()
        assert asking.users(audience) == before


def test_the_budget_ends_and_only_the_owner_refills_it(asking: Asking) -> None:
    catalog, room = asking.world.installation.catalog, asking.world.room
    definition = {"kind": "remarketing", "audience_type": "loyal"}
    first = asking.answer("audience_size", definition=definition)
    assert asking.call("get_room")["ledger"] == {"spent": 1, "total": 100}
    rule = {
        "kind": "rule_based",
        "source": {"kind": "seed", "audience_type": "loyal"},
        "filters": {"operator": "OR", "filters": []},
        "combinators": [
            {"operator": "UNION", "source": {"kind": "seed", "audience_type": "loyal"}, "filters": None}
        ],
    }
    assert asking.answer("audience_size", definition=rule) == first, "the same question in other words"
    assert asking.answer("audience_size", audience={"kind": "seed", "audience_type": "loyal"}) == first
    assert asking.call("get_room")["ledger"]["spent"] == 1
    assert catalog.charge(room.id, "bb", "f" * 64, 99) is not None
    with pytest.raises(BudgetSpentError):
        asking.answer("audience_size", definition={"kind": "remarketing", "audience_type": "new"})
    assert asking.answer("audience_size", definition=definition) == first, "what was paid for stays free"
    with pytest.raises(PermissionDeniedError):
        asking.call("refill_ledger", participant_id="bb", units=5)
    asking.call("refill_ledger", email=PUBLISHER, participant_id="bb", units=5)
    assert asking.answer("audience_size", definition={"kind": "remarketing", "audience_type": "new"})["size"]


def test_deleting_says_what_is_built_on_it_and_no_more(asking: Asking) -> None:
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
    assert asking.world.installation.catalog.custom_audiences(asking.world.room.id) == ()


def test_drafts_go_after_a_day(asking: Asking) -> None:
    asking.answer("audience_size", definition={"kind": "remarketing", "audience_type": "loyal"})
    installation = asking.world.installation
    assert len(installation.catalog.custom_audiences(asking.world.room.id, hidden=True)) == 1
    delete_superseded(installation, installation.clock() + timedelta(days=2))
    asking.world.run()
    assert installation.catalog.custom_audiences(asking.world.room.id, hidden=True) == ()


def test_the_audit_view_names_no_definition_of_others(asking: Asking) -> None:
    made = asking.create("secret plan", {**LIKE, "exclude_seed_audience": False})
    mine = asking.call("get_audit_log")["entries"]
    theirs = asking.call("get_audit_log", email=PUBLISHER)["entries"]
    assert made in str(mine)
    assert made not in str(theirs)
    assert "create_audience" in {entry["action"] for entry in theirs}
    assert "secret plan" not in str(mine) + str(theirs)
    assert all(entry["at"] for entry in mine)


def test_a_definition_says_when_what_it_names_is_gone(asking: Asking) -> None:
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
