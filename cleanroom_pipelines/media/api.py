"""Audiences and validation reports, as the server returns them.

Lives here: seed, custom and base audiences, references to them in requests, and validation reports.
Add here when the server returns another kind of object.
Keep out: requesting them (`media.py`, `compute_job.py`) and the results of jobs (`results.py`).
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
        audience_type: The type, as given in the advertiser's file.
        size: Released count of matched users; None if it is hidden or too small to publish.
        created_at: When the advertiser's data was provisioned, ISO 8601 in UTC.
        is_empty: Whether the number of matched users is too small to publish; None if that is hidden.
    """

    audience_type: str
    size: int | None = field(default=None, compare=False)
    created_at: str | None = field(default=None, compare=False)
    is_empty: bool | None = field(default=None, compare=False)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Parse the server's response."""
        return from_json(cls, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON reference to this audience, for definitions and requests."""
        return {"kind": "seed", "audience_type": self.audience_type}


@dataclass(frozen=True)
class CustomAudience:
    """An audience that a participant defined in a data room.

    Two instances are equal if their id is equal, even if one is out of date.

    Args:
        id: Its id.
        name: Its name; each group names its audiences independently.
        kind: `rule_based`, `lookalike`, `remarketing` or `exclusion`.
        definition: The definition as JSON.
        created_at: When it was created, ISO 8601 in UTC.
        created_by: Id of the participant that created it.
        shared_with: Ids of the participants with which it is shared.
        staleness_warnings: Warnings about missing data that the definition refers to.
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
        """The reach of a lookalike audience, in percent; None for other audiences."""
        reach = self.definition.get("reach")
        return reach if isinstance(reach, int) else None

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Parse the server's response."""
        return from_json(cls, {**value, "kind": value["definition"].get("kind") or value["kind"]})

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON reference to this audience, for definitions and requests."""
        return {"kind": "custom", "id": self.id}


@dataclass(frozen=True)
class BaseAudience:
    """All relevant users of the publisher, as the source of a definition."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON reference to this audience, for definitions and requests."""
        return {"kind": "base"}


AudienceType = SeedAudience | CustomAudience | BaseAudience


def reference(audience: AudienceType) -> dict[str, Any]:
    """Return the reference to an audience that definitions and requests use.

    Raises:
        InvalidDefinitionError: The argument is not an audience.
    """
    if not isinstance(audience, AudienceType):
        raise InvalidDefinitionError(
            "The argument is not an audience.",
            remedy="Use one from `get_audiences` or a `create_…_audience` call, or `BaseAudience()`.",
        )
    return audience.as_dict()


@dataclass(frozen=True)
class ValidationReport:
    """The validation report of one uploaded file: counts and row numbers, never cell values.

    Args:
        report: The report's body: outcome, counts by error code, recorded errors, schema, table, uniqueness.
        version: Version of the report's format.
    """

    report: Mapping[str, Any]
    version: str = "v0"

    @property
    def outcome(self) -> str:
        """`PASSED` if the file was accepted without its invalid rows, `FAILED` if it was rejected as a whole."""
        return str(self.report["outcome"])

    @property
    def passed(self) -> bool:
        """Whether the file was accepted."""
        return self.outcome == "PASSED"

    @property
    def n_rows(self) -> int:
        """The number of rows in the file."""
        return int(self.report["numRowsTotal"])

    @property
    def n_invalid_rows(self) -> int:
        """The number of rows with at least one error."""
        return int(self.report["numInvalidRowsTotal"])

    @property
    def n_invalid_rows_by_code(self) -> dict[str, int]:
        """The number of invalid rows by error code; a row with two codes counts under both."""
        return dict(self.report["numInvalidRowsByErrorCode"])

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Parse the server's response."""
        return from_json(cls, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the contract's JSON format: `{"version", "report": {…}}`."""
        return {"version": self.version, "report": dict(self.report)}

    def model_dump(self) -> dict[str, Any]:
        """Return the report in the contract's JSON format, like `as_dict`."""
        return self.as_dict()

    def model_dump_json(self, indent: int | None = None) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False)
