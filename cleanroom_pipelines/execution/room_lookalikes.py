"""Lookalikes of a data room: ranking a source audience, paid from the pair's budget.

Lives here: `LookalikeRun`: both rankings, the users of a reach, and what may be told of them.
Add here when a lookalike of a room is ranked in a further way.
Keep out: the mathematics (similarity), prices and noise (privacy), the audience's record (making_audiences.py).

A private ranking knows the source through one noised vector; everything else is made of that vector, the released
size of the source and one released histogram. Whoever asks again, or for another reach, pays nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cleanroom_pipelines.audiences.insights import BaseFigures
from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import SeedError
from cleanroom_pipelines.execution.budgets import Question
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.execution.making import read_documents
from cleanroom_pipelines.execution.room_budgets import RoomBudget
from cleanroom_pipelines.execution.work import Work
from cleanroom_pipelines.privacy import Price, Released, Releaser, released
from cleanroom_pipelines.privacy.accounting import TENTHS
from cleanroom_pipelines.privacy.prices import (
    BASE_COUNT,
    HIDDEN_LOOKALIKE_TENTHS,
    MOST_FIGURES_TENTHS,
    MOST_LOOKALIKE_TENTHS,
    figures_price,
)
from cleanroom_pipelines.storage import ArtifactReference

if TYPE_CHECKING:
    from cleanroom_pipelines.similarity.private_lookalikes import Choice, HeldOutCounts

RANKED = "ranked"
_LEAST_OF_A_FIT = 5  # below the released threshold only by noise that is far out; so no second threshold


@dataclass(frozen=True)
class LookalikeRun:
    """A lookalike that is being made.

    Args:
        installation: Where.
        work: The version that is made.
        room: The pair's budget for the room's data.
        figures: What is told of the base alone.
        model: Folder of the room's model.
        scratch: Where the ranking and its users are written.
        seed_file: The source's users, an id standing for one; a column user_id.
        n_seed: How many they are, exact.
        source: Canonical text of the source.
        organization: Who asks.
    """

    installation: Installation
    work: Work
    room: RoomBudget
    figures: BaseFigures
    model: Path
    scratch: Path
    seed_file: Path
    n_seed: int
    source: str
    organization: str

    @property
    def is_within_one(self) -> bool:
        """Whether both sides are one organisation's, which has nothing to hide from itself."""
        a, b = self.room.budget.pair.organizations
        return a == b

    @cached_property
    def releaser(self) -> Releaser:
        """Releases its numbers."""
        return self.room.releaser()

    @cached_property
    def seed_size(self) -> Released:
        """The released size of the source; paid."""
        from cleanroom_pipelines.similarity.rooms import check_released_seed

        self._pay(self.room.question("size", self.source))
        size = self.releaser.count(self.n_seed, question=self.source)
        check_released_seed(size, self.figures.addressable)
        return size

    def rank_fully(self) -> Mapping[str, Any]:
        """Rank by the ensemble; its statistics are exact, but for the counts."""
        from cleanroom_pipelines.similarity.room_statistics import released_statistics, room_statistics
        from cleanroom_pipelines.similarity.rooms import rank_room

        size = self.seed_size
        rank_room(
            self.model,
            self.seed_file,
            self._ranked,
            min_seed_users=_LEAST_OF_A_FIT,
            engine=self.installation.engine_settings,
            progress=lambda share, stage: self.work.report_progress(0.9 * share, stage),
            should_cancel=self.work.should_cancel,
        )
        return released_statistics(room_statistics(self._ranked), size, self.figures.addressable)

    def rank_privately(self) -> Mapping[str, Any]:
        """Rank by one noised vector."""
        from cleanroom_pipelines.similarity import private_lookalikes as private

        size = self.seed_size
        plan = Plan.of(self.room, self.model, self.source, size.kept() or 0)
        self._pay(plan.vector, plan.figures)
        d, ridge, engine = plan.choice.d, plan.choice.ridge, self.installation.engine_settings
        exact = private.seed_sum(self.model, self.seed_file, d, engine=engine)
        noised = [
            self.releaser.noised(int(value), question=plan.vector_text, cell=str(place), price=plan.vector.price)
            for place, value in enumerate(exact)
        ]
        vector = np.array(noised, dtype=np.int64)
        private.private_ranking(
            self.model,
            vector,
            d,
            self._ranked,
            ridge=ridge,
            engine=engine,
            progress=lambda share, stage: self.work.report_progress(0.9 * share, stage),
            should_cancel=self.work.should_cancel,
        )
        histogram = private.held_out_histogram(
            self.model, self.seed_file, vector, d, ranking=self._ranked, ridge=ridge, engine=engine
        )
        counts, total, sigma = self._noised(plan, histogram)
        n_users = self.figures.addressable.kept() or 0
        return self._told(private.statistics_from_released(counts, total, n_users, sigma), plan)

    def _told(self, found: Mapping[str, Any], plan: "Plan") -> dict[str, Any]:
        """The statistics as they are told: sizes beside the rates, all of them released."""
        from cleanroom_pipelines.similarity.room_statistics import others_of, reach_size_of

        seed, addressable = self.seed_size, self.figures.addressable
        return {
            **found,
            "reach": [{**entry, "size": reach_size_of(entry["reach"], addressable)} for entry in found["reach"]],
            "seed_size": seed.value,
            "addressable_size": addressable.value,
            "test_set_sizes": {"seed": seed.value, "others": others_of(seed, addressable)},
            "noise": self.releaser.noise_of(plan.figures.price),
        }

    def _noised(self, plan: "Plan", histogram: "HeldOutCounts") -> tuple[list[int], int, float]:
        """The quality figures' counts and sum with their noise, and its deviation."""
        from cleanroom_pipelines.similarity.private_lookalikes import SUM_GRID

        price = plan.figures.price
        finer = replace(price, sensitivity=price.sensitivity * SUM_GRID**2)  # the same noise in steps of the sum

        def noised(value: int, cell: str, price: Price) -> int:
            return self.releaser.noised(value, question=plan.figures_text, cell=cell, price=price)

        counts = [noised(int(count), f"bin {number}", price) for number, count in enumerate(histogram.counts)]
        return counts, noised(histogram.total, "sum", finer), math.sqrt(price.variance)

    def select(self, reach: int, *, exclude_seed_audience: bool) -> None:
        """Write the users of a reach into scratch."""
        from cleanroom_pipelines.similarity.rankings import RANKING_FILE
        from cleanroom_pipelines.similarity.rooms import select_reach

        select_reach(
            self._ranked / RANKING_FILE,
            reach,
            self.scratch,
            exclude=self.seed_file if exclude_seed_audience else None,
            engine=self.installation.engine_settings,
        )

    def size_of(self, reach: int) -> Released:
        """The users of a reach, from the released number of all."""
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


@dataclass(frozen=True)
class Plan:
    """What a private lookalike of a source asks, by the source's released size.

    Args:
        choice: Coordinates and λ.
        vector_text: Canonical text of the vector.
        figures_text: Canonical text of its quality figures.
        vector: The vector as a question.
        figures: The figures as one.
    """

    choice: "Choice"
    vector_text: str
    figures_text: str
    vector: Question
    figures: Question

    @classmethod
    def of(cls, room: RoomBudget, model: Path, source: str, n_seed_users: int) -> Self:
        """Plan it.

        Args:
            room: The pair's budget for the room's data.
            model: Folder of the room's model.
            source: Canonical text of the source.
            n_seed_users: Its released size.

        Raises:
            SeedError: The source is too small for any price.
        """
        from cleanroom_pipelines.similarity import private_lookalikes as private

        is_hidden = room.room.hide_absolute_values
        try:
            choice = private.choose(n_seed_users)
        except SeedError as error:
            if not is_hidden:
                raise
            raise SeedError(
                "The source audience has too few matched users for a private lookalike.",
                remedy=error.remedy,
                status_code=error.status_code,
            ) from None
        tenths = HIDDEN_LOOKALIKE_TENTHS if is_hidden else round(choice.units * TENTHS)
        vector_text = f"lookalike of {source} in {choice.d} dimensions of {private.representation_digest(model)}"
        squared = Fraction(math.ceil(private.sensitivity(choice.d) ** 2))
        figures_text = f"figures of {vector_text} at {tenths}"
        return cls(
            choice,
            vector_text,
            figures_text,
            room.question("lookalike", vector_text, Price(tenths, squared)),
            room.question("figures", figures_text, figures_price(n_seed_users)),
        )


def cost_of_lookalike(installation: Installation, room: RoomBudget, source: str) -> tuple[int, bool]:
    """Tenths of a unit that a lookalike of a source costs whose size is paid, and whether that is only the most.

    The size is known where it is that of a seed audience, whose overlap was made.
    """
    version = installation.catalog.current_version(Kind.DATA_ROOM, room.room.id)
    if room.room.hide_absolute_values:
        return HIDDEN_LOOKALIKE_TENTHS + MOST_FIGURES_TENTHS, True
    if version is None or not {"overlap_statistics", "room_model"} <= set(version.artifacts):
        return MOST_LOOKALIKE_TENTHS, True

    def reference(asset: str) -> ArtifactReference:
        return ArtifactReference(asset, room.room.id, version.artifacts[asset])

    with installation.store.opening(reference("overlap_statistics")) as folder:
        overlap = read_documents(folder)["overlap"]
    wanted = room.question("size", source).key
    sizes = [
        row["overlap_size"]
        for row, question in zip(overlap["without_own_counts"]["rows"], overlap["questions"], strict=True)
        if question["key"] == wanted
    ]
    if not sizes:
        return MOST_LOOKALIKE_TENTHS, True
    with installation.store.opening(reference("room_model")) as model:
        plan = Plan.of(room, model, source, sizes[0] or 0)
    return room.budget.cost([plan.vector, plan.figures]), False
