"""Lookalikes of a data room: ranking users by a source audience, charged to the room's privacy budget.

Lives here: `LookalikeRun`: both kinds of ranking, the users of a reach, and the released statistics.
Add here when a room's lookalike can be ranked in another way.
Keep out: private rankings themselves (private_rankings.py), the audience's record (building_room_audiences.py).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cleanroom_pipelines.audiences.definitions import SEGMENTS
from cleanroom_pipelines.audiences.insights import BaseFigures
from cleanroom_pipelines.catalog import CustomAudience, Kind
from cleanroom_pipelines.errors import SeedError
from cleanroom_pipelines.privacy import COUNT, Price, Released, Releaser, released
from cleanroom_pipelines.privacy.prices import (
    BASE_COUNT,
    HIDDEN_LOOKALIKE_TENTHS,
    MOST_FIGURES_TENTHS,
    MOST_LOOKALIKE_TENTHS,
    figures_price,
)
from cleanroom_pipelines.runs.artifact_documents import read_documents, read_stored
from cleanroom_pipelines.runs.budgets import Question, RoomBudget
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.private_rankings import PaidVector, PrivateRanking
from cleanroom_pipelines.runs.work import Work

RANKED = "ranked"
# Only extreme noise lets a smaller seed pass the released threshold, so this is not a second threshold.
_LEAST_OF_A_FIT = 5


@dataclass(frozen=True)
class LookalikeRun:
    """Builds one lookalike of a room.

    Args:
        work: The version being built.
        room: The pair's budget for the room's data.
        figures: Released figures of the base alone.
        named: Attribute values that the room publishes.
        model: Folder of the room's model.
        scratch: Folder for the ranking and its users.
        seed_file: The source's users, one user per matching id, in column user_id.
        n_seed: Exact number of the source's users.
        source: Canonical text of the source.
        organization: The requesting organisation.
    """

    work: Work[CustomAudience]
    room: RoomBudget
    figures: BaseFigures
    named: Mapping[str, Collection[str]]
    model: Path
    scratch: Path
    seed_file: Path
    n_seed: int
    source: str
    organization: str

    @cached_property
    def releaser(self) -> Releaser:
        """The `Releaser` that adds noise to the lookalike's numbers."""
        return self.room.releaser()

    @cached_property
    def seed_size(self) -> Released:
        """The size of the source audience, with noise; the first access charges the budget."""
        from cleanroom_pipelines.similarity.rooms import check_released_seed

        self._pay(self.room.question("size", self.source))
        size = self.releaser.count(self.n_seed, question=self.source)
        check_released_seed(size, self.figures.addressable)
        return size

    def rank_fully(self) -> dict[str, Any]:
        """Rank without noise; return quality statistics with exact rates and noised counts."""
        from cleanroom_pipelines.similarity.room_statistics import released_statistics, room_statistics
        from cleanroom_pipelines.similarity.rooms import rank_room

        size = self.seed_size
        rank_room(
            self.model,
            self.seed_file,
            self._ranked,
            min_seed_users=_LEAST_OF_A_FIT,
            runtime=self.work.runtime.part(0.0, 0.9),
        )
        statistics = released_statistics(room_statistics(self._ranked), size, self.figures.addressable)
        return {"statistics": {"result": statistics}}

    def rank_privately(self) -> dict[str, Any]:
        """Rank by a noised vector; if only the base audience has changed, reuse the vector already paid for.

        Returns:
            The documents `statistics` and `vector`.
        """
        runtime = self.work.runtime.part(0.0, 0.9)
        if (paid := self._paid_vector()) is not None:
            made = paid.rank(self.model, self._ranked, runtime=runtime)
            size = released(paid.n_seed_users, price=COUNT, is_hidden=self.room.room.hide_absolute_values)
            price = figures_price(0 if self.room.room.hide_absolute_values else paid.n_seed_users)
        else:
            size = self.seed_size
            ranking = ranking_of(self.room, self.model, self.source, size.kept() or 0)
            made = ranking.make(
                self.seed_file,
                self._ranked,
                n_users=self.figures.addressable.kept() or 0,
                releaser=self.releaser,
                organization=self.organization,
                runtime=runtime,
            )
            price = ranking.figures
        statistics = self._published(made["figures"], size, price)
        statistics["explanation"] = self._explained(made["explanation"])
        return {"statistics": {"result": statistics}, "vector": made["vector"]}

    def _paid_vector(self) -> PaidVector | None:
        """Return a vector already paid for by a lookalike with this source and representation, or None."""
        catalog, room = self.work.installation.catalog, self.room.room
        for audience in catalog.rooms.custom_audiences(room.id):
            version = catalog.resources.current_version(Kind.CUSTOM_AUDIENCE, audience.id)
            if version is None or "lookalike_statistics" not in version.artifacts:
                continue
            reference = version.artifact("lookalike_statistics")
            found = read_stored(self.work.installation.store, reference)[1].get("vector")
            paid = PaidVector.from_dict(found) if found else None
            if paid is not None and paid.fits(self.room.budget.pair.id, self.source, self.model):
                return paid
        return None

    def _published(self, found: Mapping[str, Any], seed: Released, price: Price) -> dict[str, Any]:
        """Return the quality statistics that participants may see: rates, and noised sizes."""
        from cleanroom_pipelines.similarity.room_statistics import others_of, reach_size_of

        addressable = self.figures.addressable
        # the error of a share would reveal the number of users behind it
        withheld = ("tpr_error", "auc_error") if self.room.room.hide_absolute_values else ()

        def published(entry: Mapping[str, Any]) -> dict[str, Any]:
            return {name: None if name in withheld else value for name, value in entry.items()}

        return {
            **published({name: value for name, value in found.items() if name != "cumulated"}),
            "reach": [
                {**published(entry), "size": reach_size_of(entry["reach"], addressable)}
                for entry in found["reach"]
            ],
            "seed_size": seed.value,
            "addressable_size": addressable.value,
            "test_set_sizes": {"seed": seed.value, "others": others_of(seed, addressable)},
            "noise": self.releaser.noise_of(price),
            "privacy": self.room.budget.as_dict(),
        }

    def _explained(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the published attribute values that distinguish the lookalike, strongest first.

        They derive from the paid vector, so they are free.
        """
        values = [(SEGMENTS, each["item_id"], each["strength"]) for each in found["items"]]
        values += [(each["column"], each["value"], each["strength"]) for each in found["features"]]
        # a strength is a multiple of the value expected by chance for a source of that size
        is_hidden = self.room.room.hide_absolute_values
        return [
            {"attribute": attribute, "value": value, "strength": None if is_hidden else strength}
            for attribute, value, strength in sorted(values, key=lambda each: -each[2])
            if value in self.named.get(attribute, ())
        ]

    def select(self, reach: int, *, exclude_seed_audience: bool) -> None:
        """Write the users of a reach (the best-ranked percentage) into the scratch folder."""
        from cleanroom_pipelines.similarity.rankings import RANKING_FILE
        from cleanroom_pipelines.similarity.rooms import select_reach

        select_reach(
            self._ranked / RANKING_FILE,
            reach,
            self.scratch,
            exclude=self.seed_file if exclude_seed_audience else None,
            engine=self.work.runtime.engine,
        )

    def size_of(self, reach: int) -> Released:
        """Return the number of users of a reach, computed from the noised total of users."""
        from cleanroom_pipelines.similarity.rooms import reach_size

        kept = self.figures.addressable.kept()
        value = reach_size(reach, kept) if kept else 0
        return released(value, price=BASE_COUNT, is_hidden=self.room.room.hide_absolute_values)

    @cached_property
    def _ranked(self) -> Path:
        folder = self.scratch / RANKED
        folder.mkdir()
        return folder

    def _pay(self, *questions: Question) -> None:
        self.room.budget.pay(questions, self.organization)


def ranking_of(room: RoomBudget, model: Path, source: str, n_seed_users: int) -> PrivateRanking:
    """Create the private ranking of a room's users by a source audience.

    Args:
        room: The pair's budget for the room's data.
        model: Folder of the room's model.
        source: Canonical text of the source.
        n_seed_users: Its released size.

    Raises:
        SeedError: The source is too small for any price; a room that hides sizes gives no more detail.
    """
    is_hidden = room.room.hide_absolute_values
    tenths = HIDDEN_LOOKALIKE_TENTHS if is_hidden else None
    ranking = PrivateRanking(room.budget, room.content, model, source, n_seed_users, tenths)
    try:
        assert ranking.choice
    except SeedError as error:
        if not is_hidden:
            raise
        raise SeedError(
            "The source audience has too few matched users for a private lookalike.",
            remedy=error.remedy,
            status_code=error.status_code,
        ) from None
    return ranking


def cost_of_lookalike(installation: Installation, room: RoomBudget, source: str) -> tuple[int, bool]:
    """Return a lookalike's price in tenths of a unit, and whether this is an upper bound.

    The charge for the size of its source is not included. The exact price is known only if the source is a seed
    audience whose overlap was released.
    """
    version = installation.catalog.resources.current_version(Kind.DATA_ROOM, room.room.id)
    if room.room.hide_absolute_values:
        return HIDDEN_LOOKALIKE_TENTHS + MOST_FIGURES_TENTHS, True
    if version is None or not {"overlap_statistics", "room_model"} <= set(version.artifacts):
        return MOST_LOOKALIKE_TENTHS + MOST_FIGURES_TENTHS, True
    with installation.store.opening(version.artifact("overlap_statistics")) as folder:
        overlap = read_documents(folder)["overlap"]
    wanted = room.question("size", source).key
    sizes = [
        row["overlap_size"]
        for row, question in zip(overlap["without_own_counts"]["rows"], overlap["questions"], strict=True)
        if question["key"] == wanted
    ]
    if not sizes:
        return MOST_LOOKALIKE_TENTHS + MOST_FIGURES_TENTHS, True
    with installation.store.opening(version.artifact("room_model")) as model:
        return room.budget.cost(ranking_of(room, model, source, sizes[0] or 0).questions), False
