"""Private rankings: a noised vector ranks the users, and a noised histogram measures the ranking's quality.

Lives here: `PrivateRanking`, its price, and computing it, for both data rooms and generation jobs.
Add here when something else is derived from the vector.
Keep out: the mathematics (similarity), prices and noise (privacy), callers and their purposes.

Repeating a request, or asking for another size, is free: the vector and the figures are one question each, and the
same question on the same data gets the same noise.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.privacy import Price, Releaser
from cleanroom_pipelines.privacy.accounting import TENTHS
from cleanroom_pipelines.privacy.prices import figures_price
from cleanroom_pipelines.runs.budgets import Budget, Question

if TYPE_CHECKING:
    from cleanroom_pipelines.similarity.private_lookalikes import Choice, HeldOutCounts


@dataclass(frozen=True)
class PrivateRanking:
    """A ranking of users by the sum of the seed users' vectors, to which noise was added.

    Args:
        budget: Budget of the pair that pays.
        content: Keyed digest of the data that the questions read, in addition to data named in their texts.
        model: Folder of the model.
        source: Canonical text of the seed.
        n_seed_users: Released size of the seed.
        tenths: Fixed price of the vector, if the price must not reveal the seed's size; None: it depends on it.
    """

    budget: Budget
    content: str
    model: Path
    source: str
    n_seed_users: int
    tenths: int | None = None

    @cached_property
    def choice(self) -> "Choice":
        """The parameters of the ranking: number of coordinates, price, and regularisation λ.

        Raises:
            SeedError: The seed is too small for any price.
        """
        from cleanroom_pipelines.similarity.private_lookalikes import choose

        return choose(self.n_seed_users)

    @cached_property
    def questions(self) -> tuple[Question, Question]:
        """The two charges for the ranking: for its vector, and for its quality figures."""
        return (
            Question.of("lookalike", self.content, self._vector_text, self._vector_price),
            Question.of("figures", self.content, self._figures_text, self.figures),
        )

    @property
    def figures(self) -> Price:
        """The price of the quality figures, which determines their noise."""
        # if the size is hidden, no price may reveal it
        return figures_price(self.n_seed_users if self.tenths is None else 0)

    def make(
        self,
        seed_users: Path | pa.Array | pa.ChunkedArray,
        out: Path,
        *,
        n_users: int,
        releaser: Releaser,
        organization: str,
        runtime: Runtime,
    ) -> dict[str, Any]:
        """Charge the budget, rank all users, and compute the quality figures with noise.

        Args:
            seed_users: Exact seed users, one id per user.
            out: Existing directory for ranking.parquet.
            n_users: Number of all users, as released or as both parties may know it.
            releaser: Adds the noise.
            organization: The requesting organisation.
            runtime: Engine, progress and cancellation.

        Returns:
            The figures (`statistics_from_released`), the vector's item weights (`explanation`), and the `vector`,
            for ranking a refreshed base (`PaidVector`).

        Raises:
            BudgetSpentError: Too little budget is left; nothing was computed.
            SeedError: The seed is too small for any price.
        """
        from cleanroom_pipelines.similarity import private_lookalikes as private

        self.budget.pay(self.questions, organization)
        d, ridge = self.choice.d, self.choice.ridge
        exact = private.seed_sum(self.model, seed_users, d, engine=runtime.engine)
        noised = [
            releaser.noised(int(value), question=self._vector_text, cell=str(place), price=self._vector_price)
            for place, value in enumerate(exact)
        ]
        vector = np.array(noised, dtype=np.int64)
        private.private_ranking(
            self.model,
            vector,
            d,
            out,
            ridge=ridge,
            runtime=runtime,
        )
        histogram = private.held_out_histogram(
            self.model, seed_users, vector, d, ranking=out, ridge=ridge, engine=runtime.engine
        )
        counts, total, sigma = self._with_noise(histogram, releaser)
        found = private.statistics_from_released(counts, total, n_users, sigma)
        kept = PaidVector(
            values=tuple(noised),
            d=d,
            ridge=ridge,
            deviation=math.sqrt(self._vector_price.variance / self._vector_price.sensitivity),
            source=digest_of(self.budget.pair.id, self.source),
            representation=self._representation,
            n_seed_users=self.n_seed_users,
            figures=found,
        )
        return {"figures": found, "explanation": kept.explanation(self.model), "vector": kept.as_dict()}

    def _with_noise(self, histogram: "HeldOutCounts", releaser: Releaser) -> tuple[list[int], int, float]:
        """Return a histogram's counts and sum, both with noise, and the standard deviation of the noise."""
        from cleanroom_pipelines.similarity.private_lookalikes import SUM_GRID

        finer = replace(self.figures, sensitivity=self.figures.sensitivity * SUM_GRID**2)  # in steps of the sum

        def noised(value: int, cell: str, price: Price) -> int:
            return releaser.noised(value, question=self._figures_text, cell=cell, price=price)

        counts = [noised(int(n), f"bin {number}", self.figures) for number, n in enumerate(histogram.counts)]
        return counts, noised(histogram.total, "sum", finer), math.sqrt(self.figures.variance)

    @cached_property
    def _vector_text(self) -> str:
        return f"lookalike of {self.source} in {self.choice.d} dimensions of {self._representation}"

    @cached_property
    def _representation(self) -> str:
        from cleanroom_pipelines.similarity.private_representation import representation_digest

        return representation_digest(self.model)

    @cached_property
    def _vector_price(self) -> Price:
        from cleanroom_pipelines.similarity.private_lookalikes import sensitivity

        tenths = round(self.choice.units * TENTHS) if self.tenths is None else self.tenths
        return Price(tenths, Fraction(math.ceil(sensitivity(self.choice.d) ** 2)))

    @property
    def _figures_text(self) -> str:
        return f"figures of {self._vector_text} at {self._vector_price.tenths}"


@dataclass(frozen=True)
class PaidVector(Document):
    """A noised vector that was paid for, with its quality figures; it ranks refreshed data free of charge.

    Args:
        values: (d,) in grid steps, with noise.
        d: Number of coordinates.
        ridge: λ.
        deviation: Standard deviation of its noise, as a multiple of the sensitivity.
        source: Digest of the pair and the seed's canonical text; other ids make another seed.
        representation: Representation that the vector's coordinates refer to.
        n_seed_users: Released size of the seed.
        figures: Quality figures of the base for which the vector was paid.
    """

    values: tuple[int, ...]
    d: int
    ridge: float
    deviation: float
    source: str
    representation: str
    n_seed_users: int
    figures: Mapping[str, Any]

    def fits(self, pair_id: str, source: str, model: Path) -> bool:
        """Whether the vector was made for these organisations and this seed, and fits this model."""
        from cleanroom_pipelines.similarity.private_representation import representation_digest

        return self.source == digest_of(pair_id, source) and self.representation == representation_digest(model)

    def rank(
        self,
        model: Path,
        out: Path,
        *,
        runtime: Runtime,
    ) -> dict[str, Any]:
        """Rank the users of refreshed data without the seed; returns the same as `PrivateRanking.make`."""
        from cleanroom_pipelines.similarity.private_lookalikes import private_ranking

        private_ranking(
            model,
            np.array(self.values, dtype=np.int64),
            self.d,
            out,
            ridge=self.ridge,
            runtime=runtime,
        )
        return {"figures": self.figures, "explanation": self.explanation(model), "vector": self.as_dict()}

    def explanation(self, model: Path) -> dict[str, Any]:
        """The weights that the vector gives to items and features."""
        from cleanroom_pipelines.similarity.private_lookalikes import explanation

        return explanation(
            model,
            np.array(self.values, dtype=np.int64),
            self.d,
            released_seed_size=self.n_seed_users,
            sigma=self.deviation,
        )


def digest_of(pair_id: str, source: str) -> str:
    """Return a digest of the paying pair's id and the seed's canonical text; the text itself may contain data."""
    return hashlib.sha256(f"{pair_id} {source}".encode()).hexdigest()
