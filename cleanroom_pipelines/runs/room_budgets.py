"""The privacy budget of a data room's two organisations: which data a query covers, its price and its noise.

Lives here: `RoomBudget`, and the keyed digest of each type of seed audience.
Add here when a room's questions read more data.
Keep out: the ledger (budgets.py) and computing answers.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from cleanroom_pipelines.catalog import DataRoom, Version
from cleanroom_pipelines.privacy import COUNT, Price, Releaser
from cleanroom_pipelines.privacy.prices import BASE_TENTHS
from cleanroom_pipelines.runs.artifact_documents import read_stored
from cleanroom_pipelines.runs.budgets import Budget, Question, room_pair
from cleanroom_pipelines.runs.installation import Installation

_NO_SEEDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class RoomBudget:
    """The privacy budget of two organisations for the data in one version of a room.

    Args:
        room: The room.
        budget: Budget of the pair of organisations that provide its data.
        content: Keyed digest of the base audience; those of the seed audiences are in the text of each question.
        seeds: Keyed digest of the ids of each type of seed audience.
    """

    room: DataRoom
    budget: Budget
    content: str
    seeds: Mapping[str, str]

    @classmethod
    def of(cls, installation: Installation, room: DataRoom, version: Version) -> Self | None:
        """Create the budget of a room for the data in one of its versions.

        Returns:
            None while the room has no base audience, or no organisation may provide one of its two sides.
        """
        pair = room_pair(installation, room)
        if pair is None or "base_audience" not in version.artifacts:
            return None
        seeds = _NO_SEEDS
        if "seed_audiences" in version.artifacts:
            reference = version.artifact("seed_audiences")
            seeds = read_stored(installation.store, reference)[1].get("digests", {})
            if not seeds:  # an earlier release stored none, and the advertiser's file is deleted
                with installation.store.opening(reference) as folder:
                    seeds = seed_digests(folder)
        base = installation.store.manifest(version.artifact("base_audience"))
        content = installation.key.digest("content", base.data_version.encode())
        return cls(room, Budget(installation, pair, room.id), content, seeds)

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of an artifact with noised numbers: the pair of organisations that pays for the noise."""
        return {"pair": self.budget.pair.id}

    @property
    def salt(self) -> str:
        """The secret that determines which of a user's interests are counted in the tables."""
        return self.budget.installation.key.derive(f"interests of {self.budget.pair.id}").hex()

    def releaser(self) -> Releaser:
        """Return the `Releaser` that adds noise to the room's numbers."""
        return self.budget.releaser(self.content, hide_absolute_values=self.room.hide_absolute_values)

    def question(self, kind: str, text: str, price: Price = COUNT) -> Question:
        """Create the `Question` that charges the budget for a query about the room's data."""
        return Question.of(kind, self.content, text, price)

    def question_of_base(self) -> Question:
        """Return the `Question` that charges the budget for the figures about the base audience alone."""
        from cleanroom_pipelines.audiences.insights import BASE_QUESTION

        return self.question("base", BASE_QUESTION, Price(BASE_TENTHS))


def seed_digests(folder: Path) -> dict[str, str]:
    """Return a digest of each seed audience's hashed ids, by type; the order of the ids does not matter.

    Args:
        folder: Folder of the seed audiences' artifact.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "seeds.parquet", columns=["audience_type", "digest"])
    table = table.sort_by([("audience_type", "ascending"), ("digest", "ascending")])
    found: dict[str, Any] = {}
    for batch in table.to_batches(max_chunksize=100_000):
        for kind, digest in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            found.setdefault(kind, hashlib.sha256()).update(f"{digest}\n".encode())
    return {kind: each.hexdigest() for kind, each in found.items()}
