"""Generation jobs between two organisations: noise hides each seed user in the ranking and its figures.

Lives here: whether a job is private, its seed size with noise, its ranking and metrics, the order of its exports.
Add here when a private job releases something more.
Keep out: private rankings themselves (private_rankings.py), jobs within one organisation (building_lookalike.py).

Exports neither remove nor mark the seed, unless the collaboration or the account that starts the job asks for it.
A list with the seed removed or marked reveals who is in the seed, and its manifest says so.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode, SizeType
from cleanroom_pipelines.catalog import (
    Catalog,
    Collaboration,
    ConfiguredAudienceModel,
    ExportJob,
    GenerationJob,
    Kind,
    Ledger,
    Pair,
    Version,
)
from cleanroom_pipelines.engine import Runtime, find_tables, open_configured_engine, open_parquet
from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.privacy import COUNT, Price, Released, Releaser, in_units
from cleanroom_pipelines.privacy.noise import noise_within
from cleanroom_pipelines.privacy.prices import figures_price
from cleanroom_pipelines.runs.budgets import Budget, Question
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.private_rankings import PaidVector, PrivateRanking
from cleanroom_pipelines.runs.work import Work

_MAIN_FALLBACK = AudienceSize(SizeType.PERCENTAGE, 20)
_LEAST_OTHERS = 100
_SEED_SIZE = "seed_size"
_REVEALS = {
    "ensemble": (
        "Ranked by the full ensemble, as the collaboration requires. Comparing its lists and figures can reveal "
        "individuals, and no privacy bound applies."
    ),
    SeedMode.EXCLUDED.value: (
        "The job's lists exclude the seed and so reveal it: a similar user who is not on a list is in the seed."
    ),
    SeedMode.FIRST.value: "The job's lists start with the seed's users and so reveal the seed to the receiver.",
}


@dataclass(frozen=True)
class PrivateJob:
    """A generation job between two organisations, charged to their privacy budget.

    Args:
        installation: The installation to work on.
        job: The job.
        budget: The pair's budget.
        model: The model's version.
        organization: The organisation that started it.
        removes_seed: Whether its collaboration excludes the seed from lists.
        ids_digest: Keyed digest of the seed's distinct ids.
    """

    installation: Installation
    job: GenerationJob
    budget: Budget
    model: Version
    organization: str
    removes_seed: bool
    ids_digest: str

    @classmethod
    def of(
        cls,
        installation: Installation,
        job: GenerationJob,
        configured: ConfiguredAudienceModel,
        model: Version,
        *,
        ids_digest: str,
    ) -> Self | None:
        """Return the `PrivateJob` of a generation job; None if the job needs no noise.

        Returns:
            None if both accounts belong to one organisation, or their collaboration uses the full ensemble.
        """
        catalog = installation.catalog
        starter = job.started_by or job.account_id
        agreed = catalog.parties.collaboration(job.collaboration_id) if job.collaboration_id else None
        pair = paying_pair(catalog, starter, configured.account_id, agreed)
        if pair is None:
            return None
        mine = catalog.pairs.organization_of_account(starter)
        budget = Budget(installation, pair, job.id)
        removes_seed = agreed is not None and agreed.seed_removed
        return cls(installation, job, budget, model, mine, removes_seed, ids_digest)

    @property
    def mode(self) -> SeedMode:
        """How exported lists treat seed users: excluded, placed first, or kept at their ranks."""
        asked = SeedMode(self.job.seed_mode)
        return SeedMode.IN_PLACE if asked is SeedMode.EXCLUDED and not self.removes_seed else asked

    @property
    def reveals(self) -> list[str]:
        """Codes for the facts that the job's lists reveal by design."""
        return [] if self.mode is SeedMode.IN_PLACE else ["seed"]

    @property
    def disclosures(self) -> tuple[str, ...]:
        """Keys of the sentences that tell users which facts the job's lists reveal."""
        return () if self.mode is SeedMode.IN_PLACE else (self.mode.value,)

    @cached_property
    def size_question(self) -> Question:
        """The budget's question "How many seed users matched?"."""
        return self._size_question(self._source)

    def _size_question(self, source: str) -> Question:
        return Question.of(_SEED_SIZE, self._content, source, COUNT)

    def seed_size(self, n_matched: int, minimum: int) -> Released:
        """Charge the budget, and return the noised number of matched seed users; reject a seed with too few.

        Args:
            n_matched: The exact number.
            minimum: The configured model's minimum.

        Raises:
            BudgetSpentError: Too little budget is left.
            SeedError: Too few users match.
        """
        self.budget.pay([self.size_question], self.organization)
        size = self.releaser.count(n_matched, question=self._source)
        if not size.is_enough(minimum):
            raise SeedError(
                "Too few seed users match for the configured model. The number of matches includes noise.",
                remedy="Give a larger seed, or check that it uses the same ids as the training data, in the same "
                "letter case.",
                status_code=StatusCode.INSUFFICIENT_MATCHING_SEED,
            )
        return size

    def make(
        self,
        model: Path,
        seed_users: pa.Array,
        out: Path,
        *,
        n_matched: int,
        n_users: int,
        sizes: Sequence[AudienceSize],
        minimum: int,
        runtime: Runtime,
    ) -> dict[str, Any]:
        """Rank all users, measure the quality with noise, and write ranking.parquet.

        Args:
            model: Folder of the model.
            seed_users: Matched ids of the seed.
            out: Existing directory.
            n_matched: Exact number of matched ids.
            n_users: Users of the model.
            sizes: Audience sizes to measure.
            minimum: The configured model's minimum.
            runtime: Engine, progress and cancellation.

        Returns:
            The documents `metrics`, `explanation` and `vector`.

        Raises:
            BudgetSpentError: Too little budget is left; nothing was computed.
            SeedError: The seed is too small, or covers the population.
        """
        if (paid := self._paid_vector(model)) is not None:
            kept, figures = paid.n_seed_users, figures_price(paid.n_seed_users)
            made, prices = paid.rank(model, out, runtime=runtime), (0, 0, 0)
        else:
            kept = self.seed_size(n_matched, minimum).kept() or 0
            _reject_covering(kept, n_users)
            ranking = PrivateRanking(self.budget, self._content, model, self._source, kept)
            made = ranking.make(
                seed_users,
                out,
                n_users=n_users,
                releaser=self.releaser,
                organization=self.organization,
                runtime=runtime,
            )
            figures = ranking.figures
            vector, quality = ranking.questions
            prices = (self.size_question.price.tenths, vector.price.tenths, quality.price.tenths)
        metrics = metrics_of(made["figures"], kept, n_users, sizes)
        metrics["privacy"] = self._statement(prices, figures)
        return {"metrics": metrics, "explanation": made["explanation"], "vector": made["vector"]}

    def check_seed_size(self, model: Path, n_matched: int, minimum: int) -> None:
        """Check that enough seed users match, unless a vector that was paid for earlier can replace the seed.

        Args:
            model: Folder of the model.
            n_matched: The exact number.
            minimum: The configured model's minimum.

        Raises:
            BudgetSpentError: Too little budget is left.
            SeedError: Too few users match.
        """
        if self._paid_vector(model) is None:
            self.seed_size(n_matched, minimum)

    def _paid_vector(self, model: Path) -> PaidVector | None:
        """Return the previous version's noised vector, if seed and user representation are unchanged."""
        version = self.installation.catalog.resources.current_version(Kind.GENERATION_JOB, self.job.id)
        if version is None or "audience" not in version.artifacts:
            return None
        reference = version.artifact("audience")
        manifest = self.installation.store.manifest(reference)
        if not any(each.name == "vector.json" for each in manifest.files):
            return None
        paid = PaidVector.from_dict(json.loads(self.installation.store.read(reference, "vector.json")))
        fits = any(paid.fits(self.budget.pair.id, source, model) for source in self._sources)
        return paid if fits else None

    def _statement(self, prices: tuple[int, int, int], figures: Price) -> dict[str, Any]:
        """Describe the job's price, the error of its figures, the remaining budget, and what its lists reveal."""
        size, vector, quality = prices
        price, budget = in_units(sum(prices)), self.budget.as_dict()
        bound = f"{budget['bound']['right_at_most']:.0%} of cases"
        if in_a_year := budget["bound"].get("right_at_most_in_a_year"):
            bound = f"{bound} within a month, and {in_a_year:.0%} within a year"
        of_size, of_figures = (f"± {noise_within(each, 0.9)} users" for each in (COUNT.variance, figures.variance))
        statement = (
            f"Ranked privately for {price} units of the two organisations' privacy budget: {in_units(size)} for "
            f"the seed's size ({of_size}), {in_units(vector)} for the ranking, {in_units(quality)} for quality "
            f"figures (each count {of_figures}), all ± with 90 % confidence. A result paid for earlier is free. "
            f"Left: {budget['left']} of {budget['total']} units. "
            "An attacker who knows everything else correctly guesses whether one person is in the data in at most "
            f"{bound}."
        )
        return {
            "statement": " ".join([statement, *(_REVEALS[each] for each in self.disclosures)]),
            "price": price,
            **budget,
        }

    @cached_property
    def releaser(self) -> Releaser:
        """The `Releaser` that adds noise to the job's numbers."""
        return self.budget.releaser(self._content, hide_absolute_values=False)

    @cached_property
    def _content(self) -> str:
        reference = self.model.artifact("audience_model")
        version = self.installation.store.manifest(reference).data_version
        return self.installation.key.digest("content", version.encode())

    @cached_property
    def _source(self) -> str:
        by_ids, by_file = self._sources
        return by_file if self.budget.is_paid([self._size_question(by_file)]) else by_ids

    @property
    def _sources(self) -> tuple[str, str]:
        # Earlier releases identified a seed by its file; what was paid then stays free.
        return f"seed of ids {self.ids_digest}", f"seed {self.job.seed_digest}"


def _reject_covering(n_seed_users: int, n_users: int) -> None:
    if n_users - n_seed_users < max(_LEAST_OTHERS, n_seed_users / 10):
        raise SeedError(
            "The seed covers almost the whole population, so too few users remain for comparison.",
            remedy="Give a smaller seed.",
            status_code=StatusCode.SEED_COVERS_POPULATION,
        )


def paying_pair(catalog: Catalog, starter: str, owner: str, agreed: Collaboration | None) -> Pair | None:
    """Find the pair of organisations whose budget pays for a job.

    Args:
        catalog: Holds the accounts.
        starter: The account that starts the job.
        owner: The account that owns the configured model.
        agreed: The collaboration in which the job is started.

    Returns:
        None if both accounts belong to one organisation, or their collaboration uses the full ensemble.
    """
    mine, theirs = catalog.pairs.organization_of_account(starter), catalog.pairs.organization_of_account(owner)
    if mine == theirs or (agreed is not None and agreed.full_ensemble):
        return None
    return catalog.pairs.pair(mine, theirs)


def cannot_pay(catalog: Catalog, pair: Pair) -> Ledger | None:
    """Return the ledger of two organisations if the remaining budget is too low for any job; otherwise None.

    A job first pays for its seed's size. If a size was paid for before, the same seed may be used again for free.
    """
    ledger = catalog.pairs.ledger(pair.id)
    if ledger.left >= COUNT.tenths:
        return None
    has_paid = any(line.kind == _SEED_SIZE for line in catalog.pairs.ledger_lines(pair.id))
    return None if has_paid else ledger


def reveals_by_ensemble(
    catalog: Catalog, job: GenerationJob, configured: ConfiguredAudienceModel, mode: SeedMode
) -> list[str]:
    """Return codes for the facts that a list ranked without noise reveals; empty within one organisation."""
    of = catalog.pairs.organization_of_account
    if of(job.started_by or job.account_id) == of(configured.account_id):
        return []
    return ["ensemble"] if mode is SeedMode.IN_PLACE else ["ensemble", "seed"]


def ensemble_statement(reveals: Sequence[str], mode: SeedMode) -> dict[str, str]:
    """Return a sentence on the facts that a list ranked without noise reveals; empty if there are none."""
    statements = [_REVEALS["ensemble"], *([_REVEALS[mode.value]] if "seed" in reveals else [])]
    return {"privacy": " ".join(statements)} if reveals else {}


def in_keyed_order(
    work: Work[ExportJob], job: GenerationJob, users: Iterator[pa.Array], n_first: int, stack: ExitStack
) -> Iterator[pa.Array]:
    """Order the users of a list by a keyed hash, so that the order does not reveal their ranks.

    Args:
        work: The export.
        job: The job that the list belongs to.
        users: User ids in batches.
        n_first: Number of leading users that form a block of their own: the seed, if it comes first.
        stack: Keeps the list on disk until it is closed.
    """
    import pyarrow.parquet as pq

    installation = work.installation
    scratch = Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="ordered-", dir=installation.home.scratch))
    )
    listed, ordered = scratch / "listed.parquet", scratch / "ordered.parquet"
    schema = pa.schema([("user_id", pa.string()), ("block", pa.int8())])
    with pq.ParquetWriter(listed, schema) as writer:
        place = 0
        for batch in users:
            block = pa.array((np.arange(place, place + len(batch)) >= n_first).astype(np.int8))
            writer.write_table(pa.Table.from_arrays([batch, block], schema=schema))
            place += len(batch)
    key = installation.key.derive(f"order of lists of {job.id}").hex()
    with open_configured_engine(installation.engine_settings, paths=(scratch,)) as engine:
        engine.scan("listed", find_tables(listed))
        engine.write_parquet(
            "SELECT user_id FROM listed ORDER BY block, md5(concat(?, user_id)), user_id", ordered, [key]
        )
    with open_parquet(ordered) as file:
        for batch in file.iter_batches(100_000, columns=["user_id"]):
            yield batch.column(0)


def mark_seed(ranking: Path, seed_users: pa.Array) -> None:
    """Mark the seed users in a ranking, so that a list can exclude them or place them first."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from cleanroom_pipelines.similarity.rankings import ranking_metadata, ranking_parts

    for part in ranking_parts(ranking):
        table = pq.read_table(part)
        is_seed = pc.is_in(table["user_id"], value_set=seed_users)
        table = table.set_column(table.schema.get_field_index("is_seed"), "is_seed", is_seed)
        n_seed = pc.sum(is_seed).as_py() or 0
        pq.write_table(table.replace_schema_metadata(ranking_metadata(n_seed)), part, compression="zstd")


def metrics_of(
    figures: Mapping[str, Any], n_seed_users: int, n_users: int, sizes: Sequence[AudienceSize]
) -> dict[str, Any]:
    """Compute a job's metrics from noised figures, in the same form as the metrics of jobs without noise.

    Args:
        figures: The result of `private_lookalikes.statistics_from_released`.
        n_seed_users: Released size of the seed.
        n_users: All users.
        sizes: Audience sizes to measure.
    """
    by_size = [_measured(figures, size, n_users) for size in sizes]
    percentages = [each for each in by_size if each["type"] == "PERCENTAGE" and each["value"] <= 50]
    main = max(percentages, key=lambda each: each["value"]) if percentages else None
    main = main or _measured(figures, _MAIN_FALLBACK, n_users)
    headline = next((each for each in percentages if each["value"] == 10), main)
    codes = ["NOT_BETTER_THAN_RANDOM"] if any(each["relevance"] is None for each in (*by_size, main)) else []
    messages = {"NOT_BETTER_THAN_RANDOM": "Not better than random, according to the released figures."}
    low, high = headline["lift_interval"]
    return {
        "sentence": (
            f"Finds {headline['lift']:.1f} times as many held-out seed users as chance at "
            f"{headline['size'].replace('%', ' %')} ({low:.1f} to {high:.1f}), "
            f"measured with about {n_seed_users:,} seed users"
        ),
        "recall_at": main,
        "sizes": by_size,
        "auc": figures["auc"] if figures["auc"] is not None else 0.5,
        "roc": [{"fpr": x, "tpr": y} for x, y in zip(figures["fpr"] or (), figures["tpr"] or (), strict=True)],
        "match": {"n_matched": n_seed_users},
        "n_users": n_users,
        "n_folds": 0,
        "histogram": None,
        "warnings": [{"code": code, "message": messages[code]} for code in codes],
    }


def _measured(figures: Mapping[str, Any], size: AudienceSize, n_users: int) -> dict[str, Any]:
    requested = size.n_users(n_users)
    n = min(requested, n_users)
    share = n / n_users
    shares, found, errors = (np.array(figures["cumulated"][name]) for name in ("shares", "found", "errors"))
    recall = float(np.interp(share, shares, found))
    error = float(np.interp(share, shares, errors))
    low, high = max(0.0, recall - error), min(1.0, recall + error)
    # average of 2F - 1 over the selected users; F is the share of the seed ranked below a user
    at = np.linspace(0.0, share, 201)
    relevance = float(np.mean(1 - 2 * np.interp(at, shares, found)))
    is_better = low > share or math.isclose(share, 1.0)
    return {
        "size": str(size),
        "type": size.type,
        "value": size.value,
        "requested": requested,
        "delivered": n,
        "recall": recall,
        "recall_interval": [low, high],
        "recall_fold_standard_error": None,
        "recall_random": share,
        "lift": recall / share,
        "lift_interval": [low / share, high / share],
        "relevance": relevance if is_better else None,
        "relevance_random": 1.0 - share,
    }
