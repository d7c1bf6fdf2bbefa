"""Inputs of the similarity model, such as schemas and settings, and its reports.

Lives here: schemas of the training tables, windows, settings, reports.
Add here when the model gets a new option, or a report a new figure.
Keep out: reading, fitting, ranking.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.uploads.roles import Role

MAX_FEATURES = 10
# Item numbers are stored in 16 bits.
_MOST_ITEMS = 65_535
# Limits on the users that the training or ranking machine holds in memory at once, on a cluster too.
_MOST_REPRESENTATION_USERS = 1_000_000
_MOST_FIT_USERS = 50_000
_MOST_SHOWN_OF_NAME = 32

WARNINGS = {
    "COLUMNS_IGNORED": "Columns without a role were not used.",
    "ROWS_DROPPED": "Invalid rows were dropped.",
    "FEW_ITEMS": "The data has fewer than 10 items, so users can hardly be distinguished.",
    "FEW_SEED_USERS": "Only {n} seed users matched, so the confidence interval is wide.",
    "NOT_BETTER_THAN_RANDOM": "Not better than random at {sizes}: the model found no pattern in the seed.",
    "SIZE_EXCEEDS_POPULATION": "A requested size exceeds the population; all available users are delivered.",
    "LOW_MATCH_RATE": "Few of the seed's ids matched: check that seed and training data use the same ids.",
    "MINIMUM_LOWERED": "The minimum seed size was set below 500; a small seed reveals more about each user.",
    "SEED_ROWS_DROPPED": "Seed rows without a usable id were dropped.",
}
"""The sentence of each warning code of a training, a ranking or an export."""


@dataclass(frozen=True)
class _Schema:
    columns: tuple[tuple[str, Role], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse comma-separated `column=ROLE` pairs.

        Args:
            text: Such as `user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP,brand=CATEGORICAL_FEATURE`.

        Raises:
            UsageError: The format is invalid, a role is unknown, or the schema is not allowed.
        """
        columns = []
        for part in text.split(","):
            name, equals, role = part.strip().rpartition("=")
            if not equals or not name.strip():
                raise UsageError(
                    "The schema is not a list of column=ROLE pairs.",
                    remedy="Write it as user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP.",
                )
            try:
                columns.append((name.strip(), Role(role.strip().upper())))
            except ValueError:
                raise UsageError(
                    "The schema names an unknown role.", remedy=f"Choose from: {', '.join(Role)}."
                ) from None
        return cls(tuple(columns))

    def __str__(self) -> str:
        return ",".join(f"{name}={role}" for name, role in self.columns)

    def column(self, role: Role) -> str | None:
        """Return the column with a role that at most one column may have; None if no column has the role."""
        return next((name for name, its_role in self.columns if its_role is role), None)

    @property
    def user_column(self) -> str:
        """The column of user ids."""
        return next(name for name, role in self.columns if role is Role.USER_ID)

    @property
    def features(self) -> tuple[tuple[str, Role], ...]:
        """The feature columns in their declared order."""
        return tuple((name, role) for name, role in self.columns if role.is_feature)

    def _count(self, role: Role) -> int:
        return sum(its_role is role for _, its_role in self.columns)

    def _check_names(self) -> None:
        # Column names in SQL are case-insensitive.
        names = [name.lower() for name, _ in self.columns]
        if len(set(names)) != len(names):
            raise UsageError("The schema names a column twice.", remedy="Give each column one role.")
        if self._count(Role.USER_ID) != 1:
            raise UsageError("The schema must name exactly one USER_ID column.", remedy="Add user_id=USER_ID.")


@dataclass(frozen=True)
class InteractionsSchema(_Schema):
    """Roles of the interactions table's columns: one row per event.

    Args:
        columns: (column, role) pairs: exactly one USER_ID and ITEM_ID, at most one TIMESTAMP and
            ITEM_NAME, and at most ten features.

    Raises:
        UsageError: A role is missing or repeated, or there are too many features.
    """

    def __post_init__(self) -> None:
        self._check_names()
        if self._count(Role.ITEM_ID) != 1:
            raise UsageError("The schema must name exactly one ITEM_ID column.", remedy="Add item_id=ITEM_ID.")
        for role in (Role.TIMESTAMP, Role.ITEM_NAME):
            if self._count(role) > 1:
                raise UsageError(f"The schema names more than one {role} column.", remedy="Keep only one.")
        if len(self.features) > MAX_FEATURES:
            raise UsageError(
                f"The schema has {len(self.features)} feature columns; at most {MAX_FEATURES} are allowed.",
                remedy="Remove some of them.",
            )

    @property
    def item_column(self) -> str:
        """The column of item ids."""
        return next(name for name, role in self.columns if role is Role.ITEM_ID)

    @property
    def time_column(self) -> str | None:
        """The column of event times, or None."""
        return self.column(Role.TIMESTAMP)

    @property
    def item_name_column(self) -> str | None:
        """The column of the items' names, or None."""
        return self.column(Role.ITEM_NAME)


@dataclass(frozen=True)
class UsersSchema(_Schema):
    """Roles of the users table's columns: one row per user. Each embedding value is a NUMERICAL_FEATURE column.

    Args:
        columns: (column, role) pairs: exactly one USER_ID; all others are features.

    Raises:
        UsageError: A column has another role, or there is not exactly one USER_ID.
    """

    def __post_init__(self) -> None:
        self._check_names()
        if any(self._count(role) for role in (Role.ITEM_ID, Role.ITEM_NAME, Role.TIMESTAMP)):
            raise UsageError(
                "The users schema may only have USER_ID and feature columns.",
                remedy="Declare items and times in the interactions schema.",
            )


@dataclass(frozen=True)
class TrainingTables:
    """The tables that a model is trained on.

    Args:
        interactions: File, glob or folder of parquet, CSV or JSON Lines; one row per event.
        schema: Roles of its columns.
        users: File, glob or folder of a users table, one row per user.
        users_schema: Its roles; inferred from its column types if not given.
        population: File with a column user_id. Exactly these users are ranked, with or without interactions, and
            the interactions table may be empty. If not given, all users with a usable interaction are ranked.
        max_invalid_share: Largest allowed share of invalid rows in a table, 0 to 1.

    Raises:
        UsageError: `max_invalid_share` is out of range.
    """

    interactions: str | Path
    schema: InteractionsSchema
    users: str | Path | None = None
    users_schema: UsersSchema | None = None
    population: str | Path | None = None
    max_invalid_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.max_invalid_share <= 1:
            raise UsageError(
                "The allowed share of invalid rows must be between 0 and 1.",
                remedy="Give, for example, 0.05 for 5 %.",
            )


@dataclass(frozen=True)
class Window:
    """A time window of events: `start <= time < end`, in epoch seconds; None is unbounded.

    Raises:
        UsageError: The end is not after the start.
    """

    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise UsageError("The training window ends before it starts.", remedy="Give an end after the start.")

    @property
    def is_open(self) -> bool:
        """Whether the window includes every event."""
        return self.start is None and self.end is None


class SizeProfile(StrEnum):
    """Minimum size of a training population; `aws` demands as much as AWS does."""

    DEFAULT = "default"
    AWS = "aws"

    @property
    def min_users(self) -> int:
        """The minimum number of users with at least `min_interactions_per_user` interactions."""
        return 100_000 if self is SizeProfile.AWS else 100

    @property
    def min_interactions_per_user(self) -> int:
        """The fewest interactions with which a user counts towards `min_users`."""
        return 2 if self is SizeProfile.AWS else 1

    @property
    def min_rows(self) -> int:
        """The minimum number of usable interactions in the window."""
        return 1_000_000 if self is SizeProfile.AWS else 1_000


@dataclass(frozen=True)
class TrainingSettings:
    """Settings for training a model; the defaults are used for every data set.

    Args:
        max_items: Vocabulary size M: the items with most users.
        min_users_per_item: Items with fewer users are not in the vocabulary.
        embedding_dimensions: Width d of the embedding, reduced if the data has fewer dimensions.
        neighbours: Similar items kept per item for smoothing.
        max_representation_users: Users (sampled by `stable_hash`) from whom the embedding is learnt.
        users_per_shard: Users sorted at a time while building the pairs; bounds memory, never changes a result.
        max_categories: Most frequent values kept per categorical feature.
        min_users_per_category: Categories with fewer users are not features.
    """

    max_items: int = 10_000
    min_users_per_item: int = 5
    embedding_dimensions: int = 128
    neighbours: int = 50
    max_representation_users: int = 100_000
    users_per_shard: int = 250_000
    max_categories: int = 20
    min_users_per_category: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.max_items <= _MOST_ITEMS:
            raise UsageError(
                f"The vocabulary must have between 1 and {_MOST_ITEMS:,} items.", remedy="Use the default, 10,000."
            )
        if not 1 <= self.max_representation_users <= _MOST_REPRESENTATION_USERS:
            raise UsageError(
                f"The representation must be learned from between 1 and {_MOST_REPRESENTATION_USERS:,} users.",
                remedy="Use the default, 100,000.",
            )


@dataclass(frozen=True)
class GenerationSettings:
    """Settings for ranking users by a seed; the defaults are used for every data set.

    Args:
        folds: Number of folds K for cross-fitting.
        max_fit_seed_users: Seed users (by `stable_hash`) per fit.
        max_fit_other_users: Other users (by `stable_hash`) per fit.
        max_reference_users: Non-seed users (by `stable_hash`) among whom held-out seed users are ranked.
        threads: Threads for blocks and trees; never changes a result.
        boosting_rounds: Trees of the LightGBM signal; 0 disables it.
        min_explained_users: Items and values of fewer seed users are not shown in the explanation.
        seed_floor: Smallest minimum of matching seed users that a caller may ask for.
    """

    folds: int = 5
    max_fit_seed_users: int = 5_000
    max_fit_other_users: int = 20_000
    max_reference_users: int = 200_000
    threads: int = 2
    boosting_rounds: int = 100
    min_explained_users: int = 25
    seed_floor: int = 25

    def __post_init__(self) -> None:
        if self.max_fit_seed_users + self.max_fit_other_users > _MOST_FIT_USERS:
            raise UsageError(
                f"A fit would use more than {_MOST_FIT_USERS:,} users, counting seed users and others.",
                remedy="Use the defaults: 5,000 seed users and 20,000 others.",
            )


@dataclass(frozen=True)
class TrainingReport(Document):
    """Report of a training: counts of the data read and of what was built from it.

    Args:
        n_rows: Rows of the interactions table.
        n_invalid_rows: Rows dropped for a null id, an unparsable line or a wrong cell.
        n_interactions: Usable rows inside the window.
        n_users: Scored users N.
        n_items: Items in the vocabulary M.
        n_pairs: (user, vocabulary item) pairs.
        first_time: Earliest event in the window, epoch seconds, None without times.
        last_time: Latest event in the window, epoch seconds, None without times.
        window: The window that was used, resolved to seconds.
        ignored_columns: Columns without a role.
        profile: Type and role per column, and counts of the users table.
        warnings: Warning codes for the user.
        timing_seconds: Seconds per stage.
        peak_bytes: Peak memory of the process per stage.
    """

    n_rows: int
    n_invalid_rows: int
    n_interactions: int
    n_users: int
    n_items: int
    n_pairs: int
    first_time: int | None
    last_time: int | None
    window: Window
    ignored_columns: tuple[str, ...]
    profile: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    timing_seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)


def printable(text: str) -> str:
    """Return a text on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def item_words(entry: Mapping[str, Any]) -> str:
    """Return how an item of explanation.json is shown to people: by its name, if it has one, and its id."""
    item_id, name = printable(entry["item_id"]), entry.get("name", "")
    if len(name) > _MOST_SHOWN_OF_NAME:
        name = f"{name[: _MOST_SHOWN_OF_NAME - 1]}…"
    return f"{name} ({item_id})" if name else f"item {item_id}"


@dataclass(frozen=True)
class GenerationReport:
    """Report of a ranking, whose files are in the output directory.

    Args:
        metrics: The content of `metrics.json`.
        explanation: The content of `explanation.json`.
        n_users: Ranked users N.
        warnings: Warning codes for the user.
        timing_seconds: Seconds per stage.
    """

    metrics: Mapping[str, Any]
    explanation: Mapping[str, Any]
    n_users: int
    warnings: tuple[str, ...]
    timing_seconds: Mapping[str, float]

    @property
    def sentence(self) -> str:
        """A one-sentence summary of the audience's quality."""
        return str(self.metrics["sentence"])

    @property
    def items_in_words(self) -> str:
        """The five items that distinguish the seed most; empty if none does."""
        return ", ".join(item_words(entry) for entry in self.explanation["items"][:5])
