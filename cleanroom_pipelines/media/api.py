"""What the server tells of: audiences and validation reports.

Lives here: seed, custom and base audiences, how a request names one, and validation reports.
Add here when the server tells of a further thing.
Keep out: asking for them (`media.py`, `compute_job.py`) and what jobs work out (`results.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cleanroom_pipelines.documents import from_json
from cleanroom_pipelines.media.errors import InvalidDefinitionError

JSONType = dict[str, Any] | list[Any] | str | int | float | bool | None


@dataclass(frozen=True)
class SeedAudience:
    """The advertiser's users of one audience type.

    Args:
        audience_type: The type, as the advertiser's file says it.
        size: Matched users by the released count; None where it is hidden or too small to be told.
        created_at: When the advertiser's data came, ISO 8601 in UTC.
        is_empty: Whether too few matched to be told; None where that is hidden.
    """

    audience_type: str
    size: int | None = field(default=None, compare=False)
    created_at: str | None = field(default=None, compare=False)
    is_empty: bool | None = field(default=None, compare=False)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what the server tells."""
        return from_json(cls, value)

    def as_dict(self) -> dict[str, Any]:
        """How a definition or a request names it."""
        return {"kind": "seed", "audience_type": self.audience_type}


@dataclass(frozen=True)
class CustomAudience:
    """An audience that was defined in a data room.

    Two of them are equal if they are the same audience, whatever was changed since either was fetched.

    Args:
        id: Its id.
        name: Its name; groups name their audiences independently.
        kind: `rule_based`, `lookalike`, `remarketing` or `exclusion`.
        definition: The definition as JSON.
        created_at: When it was created, ISO 8601 in UTC.
        created_by: Who created it.
        shared_with: Ids of the participants that it is shared with.
        staleness_warnings: What the definition refers to and is no longer there, in words.
    """

    id: str
    name: str = field(compare=False)
    kind: str = field(compare=False)
    definition: Mapping[str, Any] = field(compare=False)
    created_at: str | None = field(default=None, compare=False)
    created_by: str | None = field(default=None, compare=False)
    shared_with: tuple[str, ...] = field(default=(), compare=False)
    staleness_warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def reach(self) -> int | None:
        """The reach of a lookalike in percent; None for other audiences."""
        reach = self.definition.get("reach")
        return reach if isinstance(reach, int) else None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what the server tells."""
        return from_json(cls, {**value, "kind": value["definition"].get("kind") or value["kind"]})

    def as_dict(self) -> dict[str, Any]:
        """How a definition or a request names it."""
        return {"kind": "custom", "id": self.id}


@dataclass(frozen=True)
class BaseAudience:
    """All relevant users of the publisher, as the source of a definition."""

    def as_dict(self) -> dict[str, Any]:
        """How a definition or a request names it."""
        return {"kind": "base"}


AudienceType = SeedAudience | CustomAudience | BaseAudience


def reference(audience: AudienceType) -> dict[str, Any]:
    """How a definition or a request names an audience.

    Raises:
        InvalidDefinitionError: It is no audience.
    """
    if not isinstance(audience, AudienceType):
        raise InvalidDefinitionError(
            "What was given is no audience.",
            remedy="Take one from `get_audiences`, from a `create_…_audience` call, or `BaseAudience()`.",
        )
    return audience.as_dict()


@dataclass(frozen=True)
class ValidationReport:
    """What is right and wrong with one uploaded file, in counts and row numbers; never a cell's value.

    Args:
        report: The report's body: outcome, counts by error code, recorded errors, schema, table, uniqueness.
        version: Version of its shape.
    """

    report: Mapping[str, Any]
    version: str = "v0"

    @property
    def outcome(self) -> str:
        """PASSED: the file can be used after dropping its bad rows. FAILED: nothing of it was taken."""
        return str(self.report["outcome"])

    @property
    def passed(self) -> bool:
        """Whether the file can be used."""
        return self.outcome == "PASSED"

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return int(self.report["numRowsTotal"])

    @property
    def n_invalid_rows(self) -> int:
        """Rows with at least one error."""
        return int(self.report["numInvalidRowsTotal"])

    @property
    def n_invalid_rows_by_code(self) -> dict[str, int]:
        """Rows with an error, by its code; a row with two codes counts under both."""
        return dict(self.report["numInvalidRowsByErrorCode"])

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read what the server tells."""
        return from_json(cls, value)

    def as_dict(self) -> dict[str, Any]:
        """The contract's JSON shape: `{"version", "report": {…}}`."""
        return {"version": self.version, "report": dict(self.report)}

    def model_dump(self) -> dict[str, Any]:
        """The same as `as_dict`."""
        return self.as_dict()

    def model_dump_json(self, indent: int | None = None) -> str:
        """The report as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False)
