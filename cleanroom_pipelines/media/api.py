"""The server's responses as pydantic models, with the members that scripts for Decentriq's Media API read.

Lives here: audiences and references to them, validation reports, and the results of jobs about a room.
Add here when the server returns another kind of object that Decentriq's Media API also has.
Keep out: requesting them (`media.py`, `compute_job.py`), and results that only this API has (`results.py`).

A field of a `CamelResult`, such as `audience_type`, is also the attribute `audienceType`, its name in JSON.
A number that is None is hidden, or too small to publish.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, computed_field, model_validator
from pydantic.alias_generators import to_camel, to_snake

from cleanroom_pipelines.documents import from_json
from cleanroom_pipelines.media.errors import InvalidDefinitionError, InvalidRequestError
from cleanroom_pipelines.terms import MatchingId, Term

JSONType = dict[str, Any] | list[Any] | str | int | float | bool | None


class Result(BaseModel):
    """Base class of the server's responses; fields that only a newer server sends are ignored."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True, serialize_by_alias=True
    )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Parse the server's response.

        Raises:
            ValueError: The value does not fit this class; the error does not quote it.
        """
        return from_json(cls, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a JSON-serializable dictionary."""
        return self.model_dump(mode="json")


class CamelResult(Result):
    """A result whose fields can also be read by their camelCase names, as in Decentriq's Media API."""

    model_config = ConfigDict(alias_generator=to_camel)

    def __getattr__(self, name: str) -> Any:
        fields = type(self).model_fields
        field = next((each for each, info in fields.items() if info.alias == name), to_snake(name))
        if field != name and hasattr(type(self), field) | (field in fields):
            return getattr(self, field)
        return super().__getattr__(name)  # type: ignore[misc]


class AudienceKind(Term):
    """Kinds of audiences: provided by the advertiser (SEED), or defined in the room (CUSTOM)."""

    SEED = "SEED"
    CUSTOM = "CUSTOM"


class IdType(Term):
    """Kinds of identifiers in scripts for Decentriq's Media API; `matching_id` converts one to a `MatchingId`."""

    STRING = "STRING"
    EMAIL = "EMAIL"
    HASHED_EMAIL = "HASHED_EMAIL"
    PHONE_NUMBER = "PHONE_NUMBER"
    HASHED_PHONE_NUMBER = "HASHED_PHONE_NUMBER"
    MAID = "MAID"
    HASHED_MAID = "HASHED_MAID"
    UTIQ_MARTECH = "UTIQ_MARTECH"
    UTIQ_ADTECH = "UTIQ_ADTECH"
    FIRST_ID = "FIRST_ID"
    ID5 = "ID5"
    NET_ID = "NET_ID"
    ONE_ID = "ONE_ID"
    IPV4_ADDRESS = "IPV4_ADDRESS"


def matching_id(kind: Any) -> MatchingId:
    """Convert an `IdType` or a string to a kind of matching ids.

    Raises:
        InvalidRequestError: The kind is unknown, or ids of this kind cannot be matched here.
    """
    text = str(getattr(kind, "value", kind))
    if text in list(MatchingId):
        return MatchingId(text)
    if text in list(IdType):
        raise InvalidRequestError(
            f"Matching by {text} is not supported.",
            remedy=f"Choose from: {', '.join(MatchingId)}. STRING matches ids as they are written.",
        )
    raise InvalidRequestError("Unknown kind of matching ids.", remedy=f"Choose from: {', '.join(MatchingId)}.")


# audiences


class SeedAudience(CamelResult):
    """The advertiser's users of one audience type. Two instances are equal if their audience types are equal.

    Args:
        audience_type: The type, as given in the advertiser's file.
        audience_size: Number of valid unique ids in the file; for the advertiser only.
        created_at: When the file was uploaded.
        is_empty: Whether the number of matched users is too small to publish; None until the overlap was paid for.
        size: Released count of matched users; None if it is hidden, too small, or was not paid for yet.
    """

    audience_type: str
    audience_size: int | None = None
    created_at: datetime | None = None
    is_empty: bool | None = None
    size: int | None = Field(None, validation_alias=AliasChoices("size", "overlap_size"))

    def __init__(self, audience_type: str | None = None, /, **fields: Any) -> None:
        super().__init__(**fields if audience_type is None else {"audience_type": audience_type, **fields})

    @computed_field  # type: ignore[prop-decorator]
    @property
    def kind(self) -> AudienceKind:
        """The audience's kind: always `AudienceKind.SEED`."""
        return AudienceKind.SEED

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON reference to this audience, for definitions and requests."""
        return {"kind": "seed", "audience_type": self.audience_type}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeedAudience) and other.audience_type == self.audience_type

    def __hash__(self) -> int:
        return hash(self.audience_type)


class AudienceReference(CamelResult):
    """An audience to which a definition refers.

    Args:
        kind: `BASE`, `SEED` or `CUSTOM`.
        audience_type: The type of a seed audience.
        id: The id of a custom audience.
    """

    kind: str
    audience_type: str | None = None
    id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {**value, "kind": str(value.get("kind", "")).upper()}


class DefinitionFilter(CamelResult):
    """A filter condition on one attribute of a user."""

    attribute: str
    operator: str
    values: list[str] | None = None


class DefinitionFilters(CamelResult):
    """Several filter conditions, combined by `AND` or `OR`."""

    boolean_op: str = Field(validation_alias=AliasChoices("booleanOp", "operator"))
    filters: list[DefinitionFilter]


class DefinitionCombinator(CamelResult):
    """Another audience, and how it is combined with the result so far."""

    operator: str
    source_ref: AudienceReference = Field(validation_alias=AliasChoices("sourceRef", "source"))
    filters: DefinitionFilters | None = None


_KINDS = {"exclusion": "EXCLUSION_TARGETING"}


class CustomAudienceDefinition(CamelResult):
    """The definition of a custom audience; `definition["reach"]` returns the value that is sent to the server.

    Args:
        kind: `LOOKALIKE`, `RULE_BASED`, `REMARKETING` or `EXCLUSION_TARGETING`.
        source_ref: The source of a lookalike or rule-based audience.
        reach: The reach of a lookalike audience, in percent.
        exclude_seed_audience: Whether a lookalike audience leaves out its source.
        filters: Conditions on the source's users.
        combine: Other audiences, in order.
        seed_audience_ref: The seed audience of a remarketing or exclusion audience.
        sent: The definition as it is sent to the server.
    """

    kind: str = ""
    source_ref: AudienceReference | None = Field(None, validation_alias=AliasChoices("sourceRef", "source"))
    reach: int | None = None
    exclude_seed_audience: bool | None = None
    filters: DefinitionFilters | None = None
    combine: list[DefinitionCombinator] | None = Field(
        None, validation_alias=AliasChoices("combine", "combinators")
    )
    seed_audience_ref: AudienceReference | None = None
    sent: Mapping[str, Any] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        kind, type_ = str(value.get("kind", "")), value.get("audience_type")
        seed = None if type_ is None else {"kind": "seed", "audience_type": type_}
        return {**value, "kind": _KINDS.get(kind, kind.upper()), "seed_audience_ref": seed, "sent": value}

    def __getitem__(self, name: str) -> Any:
        return self.sent[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field that is sent to the server."""
        return self.sent.get(name, default)


class StalenessWarnings(CamelResult):
    """The audiences, attributes and values that a definition names but the room no longer has."""

    missing_custom_audiences: list[str] | None = None
    missing_filter_attributes: list[str] | None = None
    missing_filter_values: list[str] | None = None
    missing_seed_audiences: list[str] | None = None


class CustomAudience(CamelResult):
    """An audience that a participant defined in a data room.

    Two instances are equal if their id is equal, even if one is out of date.

    Args:
        id: Its id.
        name: Its name; each participant names its audiences independently.
        definition: Its definition.
        created_at: When it was created, ISO 8601 in UTC.
        created_by: E-mail address of its creator, for the creator's group; for others the id of that group.
        created_by_group_id: Id of the participant that created it.
        shared_with: Ids of the participants with which it is shared.
        does_audience_depend_on_lookalike_audience: Whether a lookalike audience is among its sources.
        staleness_warnings: Warnings about missing data, in sentences.
        missing: The missing data by kind; the attribute `stalenessWarnings`.
    """

    id: str
    name: str
    definition: CustomAudienceDefinition
    created_at: str | None = None
    created_by: str | None = None
    created_by_group_id: str | None = None
    shared_with: tuple[str, ...] = ()
    does_audience_depend_on_lookalike_audience: bool | None = None
    staleness_warnings: tuple[str, ...] = Field((), alias="stalenessSentences")
    missing: StalenessWarnings | None = Field(None, alias="stalenessWarnings")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def kind(self) -> AudienceKind:
        """The audience's kind: always `AudienceKind.CUSTOM`; its definition has a `kind` of its own."""
        return AudienceKind.CUSTOM

    @property
    def reach(self) -> int | None:
        """The reach of a lookalike audience, in percent; None for other audiences."""
        return self.definition.reach

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON reference to this audience, for definitions and requests."""
        return {"kind": "custom", "id": self.id}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomAudience) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class BaseAudience(Result):
    """The publisher's base audience, as the source of a definition.

    It has the users in the embeddings file, or else those in the segments file, or else all with matching ids.
    """

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON reference to this audience, for definitions and requests."""
        return {"kind": "base"}


AudienceType = SeedAudience | CustomAudience | BaseAudience


def reference(audience: AudienceType) -> dict[str, Any]:
    """Return the JSON reference to an audience, for definitions and requests.

    Raises:
        InvalidDefinitionError: The argument is not an audience.
    """
    if not isinstance(audience, AudienceType):
        raise InvalidDefinitionError(
            "The argument is not an audience.",
            remedy="Use an audience from `get_audiences` or a `create_…_audience` call, or `BaseAudience()`.",
        )
    return audience.as_dict()


# validation reports


class ValidationOutcome(Term):
    """Whether a file was accepted."""

    PASSED = "PASSED"
    FAILED = "FAILED"


class CellLocation(CamelResult):
    """The row and the column of an error in a file; each is None if it does not apply."""

    row: int | None = None
    column: int | str | None = None


class RecordedErrorOfFile(CamelResult):
    """One error in a file, without the cell's value."""

    code: str
    location: CellLocation | None = None
    message: str = ""


class ErrorsOfFile(CamelResult):
    """The errors in one part of a file: the number of all errors, and the first 500 in detail."""

    model_config = ConfigDict(extra="allow")

    num_errors_total: int = 0
    recorded_errors: list[RecordedErrorOfFile] = []
    column: int | str | None = None


class DropInvalidRows(CamelResult):
    """The number of invalid rows that were dropped."""

    num_invalid_rows_dropped: int


class ValidationReportV0(CamelResult):
    """The body of a validation report: counts and row numbers, never cell values."""

    model_config = ConfigDict(extra="allow")

    outcome: ValidationOutcome
    num_rows_total: int = 0
    num_invalid_rows_total: int = 0
    num_invalid_rows_by_error_code: dict[str, int] = {}
    columns: list[ErrorsOfFile] = []
    errors_of_schema: ErrorsOfFile = Field(ErrorsOfFile(), alias="schema")
    table: ErrorsOfFile = ErrorsOfFile()
    uniqueness: ErrorsOfFile | None = None
    drop_invalid_rows: DropInvalidRows | None = None

    @property
    def schema(self) -> ErrorsOfFile:  # type: ignore[override]
        """The errors in the file's columns."""
        return self.errors_of_schema

    @property
    def num_valid_rows(self) -> int:
        """The number of rows without errors."""
        return self.num_rows_total - self.num_invalid_rows_total

    @property
    def detected_file_type(self) -> str | None:
        """The format in which the file was read; None if it could not be read."""
        return getattr(self.table, "format", None) or None

    @property
    def original_file_size_bytes(self) -> int | None:
        """The size of the file; None if it is unknown."""
        return getattr(self.table, "numBytes", None)

    def __getitem__(self, name: str) -> Any:
        return self.as_dict()[name]

    def as_dict(self) -> dict[str, Any]:
        """Return the body as the server sent it."""
        return self.model_dump(mode="json", exclude_unset=True)


class ValidationReport(Result):
    """The validation report of one uploaded file.

    Args:
        report: The report's body: outcome, counts by error code, recorded errors, schema, table, uniqueness.
        version: Version of the report's format.
    """

    report: ValidationReportV0
    version: str = "v0"

    @property
    def outcome(self) -> str:
        """`PASSED` if the file was accepted (invalid rows are dropped), `FAILED` if it was rejected as a whole."""
        return self.report.outcome.value

    @property
    def passed(self) -> bool:
        """Whether the file was accepted."""
        return self.report.outcome is ValidationOutcome.PASSED

    @property
    def n_rows(self) -> int:
        """The number of rows in the file."""
        return self.report.num_rows_total

    @property
    def n_invalid_rows(self) -> int:
        """The number of rows with at least one error."""
        return self.report.num_invalid_rows_total

    @property
    def n_invalid_rows_by_code(self) -> dict[str, int]:
        """The number of invalid rows by error code; a row with two codes counts under both."""
        return dict(self.report.num_invalid_rows_by_error_code)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON, with its version: `{"version", "report": {…}}`."""
        return {"version": self.version, "report": self.report.as_dict()}


# results of jobs


class OverlapStatistic(Result):
    """The overlap of one type of seed audience with the base audience.

    Args:
        audience_type: Type of the seed audience.
        advertiser_size: Number of ids that the advertiser provided; visible to the advertiser only.
        overlap_size: Number of distinct matched users of the publisher.
        is_empty: Whether the number of matched users is too small to publish.
        match_rate: Share of the advertiser's valid unique ids that matched, 0 to 1.
    """

    audience_type: str
    advertiser_size: int | None = None
    overlap_size: int | None = None
    is_empty: bool | None = None
    match_rate: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def advertiser_is_empty(self) -> bool:
        """Whether the number of matched users is too small to publish; False if unknown."""
        return bool(self.is_empty)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def num_activation_ids_in_overlap(self) -> dict[str, int] | None:
        """The overlap size as `{"userId": size}`; the key is the kind of ids that exported lists contain."""
        return None if self.overlap_size is None else {USER_ID: self.overlap_size}


USER_ID = "userId"


class OverlapStatisticsResult(Result):
    """The overlap of the seed audiences with the base audience.

    Args:
        overlap_statistics: One per type of seed audience; also the attribute `rows`.
        noise: Error bounds of the numbers, as stated by the server.
    """

    overlap_statistics: list[OverlapStatistic] = Field(validation_alias=AliasChoices("overlap_statistics", "rows"))
    noise: Mapping[str, Any] = {}

    @property
    def rows(self) -> Sequence[OverlapStatistic]:
        """One row for each type of seed audience."""
        return self.overlap_statistics

    def of(self, audience_type: str) -> OverlapStatistic | None:
        """Return the row of one type of seed audience; None if the type does not exist."""
        return next((row for row in self.rows if row.audience_type == audience_type), None)


class InsightsRow(Result):
    """One group of users: its share in the overlap, compared with its share among all matchable users.

    Args:
        interest: The segment; None for all.
        age: The age bracket; None for all.
        gender: The gender; None for all.
        affinity_ratio: The group's share in the overlap divided by its share among all matchable users.
        share_in_overlap: The group's share in the overlap, 0 to 1.
        share_in_matchable: The group's share among all matchable users, 0 to 1.
        addressable_size: Number of the publisher's users in the group.
    """

    interest: str | None = None
    age: str | None = None
    gender: str | None = None
    affinity_ratio: float | None = None
    share_in_overlap: float | None = None
    share_in_matchable: float | None = None
    addressable_size: int | None = None

    @property
    def grouping(self) -> tuple[str, ...]:
        """The names of the attributes that define the group."""
        return tuple(name for name in ("interest", "age", "gender") if getattr(self, name) is not None)


_FIGURES = ("affinity_ratio", "share_in_overlap", "share_in_matchable", "addressable_size")


class AggregationColumn(Result):
    """An attribute by which users are grouped, and its values."""

    column: str
    possible_values: list[str]


class Aggregation(Result):
    """A table of users grouped by one or two attributes.

    Args:
        id: The attributes, such as `age` or `interest_age`.
        aggregation: The attributes with their values.
        audience_type: Type of the seed audience.
        columns: Names of the columns of `rows`: the attributes, then the figures.
        rows: One per group.
    """

    id: str
    aggregation: list[AggregationColumn]
    audience_type: str
    columns: list[str]
    rows: list[list[Any]]

    @classmethod
    def of(cls, audience_type: str, names: Sequence[str], rows: Sequence[InsightsRow]) -> Self:
        """Build the table for one or two attributes from the rows that group users by them."""
        columns = [*names, *_FIGURES]
        values = {name: list(dict.fromkeys(str(getattr(row, name)) for row in rows)) for name in names}
        return cls(
            id="_".join(names),
            aggregation=[AggregationColumn(column=name, possible_values=values[name]) for name in names],
            audience_type=audience_type,
            columns=columns,
            rows=[[getattr(row, name) for name in columns] for row in rows],
        )


class ComputeInsightsAudience(Result):
    """The insights on one type of seed audience.

    Args:
        audience_type: Type of the seed audience.
        rows: One per interest, age, gender and pair of them.
    """

    audience_type: str
    rows: tuple[InsightsRow, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def aggregations(self) -> list[Aggregation]:
        """The insights as tables, one for each attribute or pair of attributes that groups the users."""
        groupings = dict.fromkeys(row.grouping for row in self.rows)
        return [
            Aggregation.of(self.audience_type, names, [row for row in self.rows if row.grouping == names])
            for names in groupings
        ]


class ComputeInsightsResult(Result):
    """Traits that distinguish the matched users of each seed audience.

    Args:
        audiences: One row for each type of seed audience.
        total_publisher: Released count of the publisher's relevant users; None if it is hidden.
        noise: Error bounds of the numbers, as stated by the server.
    """

    audiences: list[ComputeInsightsAudience]
    total_publisher: int | None = None
    noise: Mapping[str, Any] = {}

    def of(self, audience_type: str) -> ComputeInsightsAudience | None:
        """Return the insights on one type of seed audience; None if the type does not exist."""
        return next((each for each in self.audiences if each.audience_type == audience_type), None)


class ValueType(Term):
    """How the values of an attribute are compared."""

    NUMERIC_RANGE = "NUMERIC_RANGE"
    CATEGORICAL = "CATEGORICAL"


class AttributeDefinition(Result):
    """An attribute that filters can use.

    Args:
        name: `age`, `gender` or `segments`.
        value_type: How its values are compared; also the attribute `type`.
        values: Its values in the base audience.
        filters: The filter operators that it supports; also the attribute `operators`.
    """

    name: str
    value_type: ValueType = Field(validation_alias=AliasChoices("value_type", "type"))
    values: list[str]
    filters: list[str] = Field(validation_alias=AliasChoices("filters", "operators"))

    @property
    def type(self) -> str:
        """The attribute's type: `NUMERIC_RANGE` or `CATEGORICAL`."""
        return self.value_type.value

    @property
    def operators(self) -> Sequence[str]:
        """The filter operators that the attribute supports, as sent to the server."""
        return self.filters


class DataAttributesResult(Result):
    """The attributes that filters can use, by name."""

    attributes: dict[str, AttributeDefinition]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        listed = value["attributes"]
        return value if isinstance(listed, Mapping) else {"attributes": {each["name"]: each for each in listed}}

    def of(self, name: str) -> AttributeDefinition | None:
        """Return the attribute with a name; None if the base audience lacks it."""
        return self.attributes.get(name)
