"""The form of a declaration file.

Lives here: the pydantic models, and messages that name the place of a mistake.
Add here when a declared resource gets a field.
Keep out: YAML itself (reading.py) and comparing with the catalogue (applying.py).
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from cleanroom_pipelines.audiences.sizes import SeedMode
from cleanroom_pipelines.catalog.names import LOCAL_ACCOUNT, LOCAL_REGION, is_account_id
from cleanroom_pipelines.declarations.reading import load_yaml
from cleanroom_pipelines.delivery.holdouts import Holdout
from cleanroom_pipelines.errors import CleanroomError, UsageError
from cleanroom_pipelines.storage.s3_urls import split_s3_url
from cleanroom_pipelines.uploads.roles import Role

PARTY_SECTIONS = ("accounts", "collaborations", "templates", "buckets")
SECTIONS = (
    *PARTY_SECTIONS,
    "training_datasets",
    "audience_models",
    "configured_audience_models",
    "generation_jobs",
)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MAX_BYTES = 500_000  # PyYAML reads it in ten seconds at worst
_MAX_KEY = 60


def parse_duration(value: object) -> int:
    """Read a duration such as `7d`, `90d`, `12h` or `30m` as seconds.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r"(\d{1,9})\s*([smhdw])", str(value).strip())
    if match is None:
        raise ValueError("write a duration as 30m, 12h, 7d or 2w")
    return int(match.group(1)) * _SECONDS[match.group(2)]


def parse_moment(value: object) -> int:
    """Read a moment (a date, an ISO date and time, or epoch seconds) as epoch seconds UTC.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        moment = datetime.fromisoformat(str(value))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        # not the text of the first error, which quotes the value
        raise ValueError("write a moment as 2017-10-30, 2017-10-30T12:00:00 or epoch seconds") from None


def _as_text(value: object) -> object:
    # YAML reads an audience size such as 5000, and a name such as 2024, as a number
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked_output(value: object) -> object:
    if isinstance(value, str):
        split_s3_url(value, what="destination")
    return value


def _as_account(value: object) -> object:
    text = _as_text(value)
    # YAML reads digits that begin with a zero as an octal number, or as decimal without it
    if text is not value and not is_account_id(str(text)):
        raise ValueError("write an account id in quotes")
    return text


Duration = Annotated[int, BeforeValidator(parse_duration)]
Moment = Annotated[int, BeforeValidator(parse_moment)]
Text = Annotated[str, BeforeValidator(_as_text)]
AccountText = Annotated[str, BeforeValidator(_as_account)]
Output = Annotated[str, BeforeValidator(_checked_output)]
# YAML has words only; a strict form would ask for members of the enum.
RoleWord = Annotated[Role, Field(strict=False)]
SeedModeWord = Annotated[SeedMode, Field(strict=False)]


class _Form(BaseModel):
    # strict: what YAML reads as a number is not taken for a text, nor `true` for 1
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Named(_Form):
    name: Text
    description: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class TableForm(_Form):
    """A table: where it lies and what its columns mean."""

    source: str
    columns: dict[str, RoleWord]


class TrainingDatasetForm(_Named):
    """A training dataset; `source` is relative to the declaration file."""

    source: str
    columns: dict[str, RoleWord]
    users: TableForm | None = None
    max_invalid_share: float = 0.05


class WindowForm(_Form):
    """A half-open training window."""

    start: Moment | None = None
    end: Moment | None = None


class Refresh(_Form):
    """How often a model is trained again, on which window, and whether the seeds of its jobs are kept for it."""

    every: Duration
    window: Duration | None = None
    keep_seed: bool = False


class AudienceModelForm(_Named):
    """An audience model of a training dataset of the same file or of the catalogue."""

    training_dataset: Text
    window: WindowForm = WindowForm()
    refresh: Refresh | None = None


class DeliveryForm(_Form):
    """How exports are written beyond their format.

    `holdout` keeps a control group out, the same users at each refresh; `changes` adds to the export of a refresh
    who came and who went since the one before.
    """

    gzip: bool = False
    max_rows: int | None = Field(default=None, ge=1)
    holdout: Text | None = None
    changes: bool = False

    @field_validator("holdout")
    @classmethod
    def _is_share(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Holdout.parse(value, "-")
            except CleanroomError as error:
                raise ValueError(error.message) from None
        return value


class ConfiguredAudienceModelForm(_Named):
    """What may be done with a model."""

    audience_model: Text
    sizes: list[Text] = Field(min_length=1)
    output: Output
    minimum_matching_seed_size: int = 500
    share_metrics: bool = False
    share_explanation: bool = False
    export_format: Literal["jsonl", "csv", "parquet"] = "jsonl"
    delivery: DeliveryForm | None = None


class JobForm(_Named):
    """A generation job; `seed` is relative to the declaration file.

    Without `keep_seed`, the refresh of its audience model says whether the seed is kept.
    """

    configured_audience_model: Text
    seed: str
    seed_mode: SeedModeWord = SeedMode.EXCLUDED
    keep_seed: bool | None = None
    exports: list[Text] = Field(default_factory=list)


class AccountForm(_Form):
    """An account; its access keys are made by `cleanroom account key create`, which shows their secrets once."""

    name: Text
    id: AccountText | None = None
    organization: Text | None = None


class CollaborationForm(_Form):
    """Accounts, by name or id, that may start jobs on each other's models where the policies allow it."""

    name: Text
    members: list[AccountText] = Field(min_length=1)
    seed: Literal["in-place", "removed"] = "in-place"
    privacy: Literal["private", "full"] = "private"
    period: Literal["life", "month"] = "life"


class TemplateForm(_Form):
    """SQL that may be run as a seed; `sql` is a file, relative to the declaration file."""

    name: Text
    account: AccountText | None = None
    sql: str
    collaboration: Text | None = None


class BucketForm(_Form):
    """A bucket name that is one account's: a folder of the home, or the real bucket at `url`."""

    name: Text
    account: AccountText | None = None
    url: str | None = None
    credentials_profile: str | None = None


class _Sections(_Form):
    account: AccountText = LOCAL_ACCOUNT
    region: str = LOCAL_REGION
    accounts: list[AccountForm] = Field(default_factory=list)
    collaborations: list[CollaborationForm] = Field(default_factory=list)
    templates: list[TemplateForm] = Field(default_factory=list)
    buckets: list[BucketForm] = Field(default_factory=list)
    training_datasets: list[TrainingDatasetForm] = Field(default_factory=list)
    audience_models: list[AudienceModelForm] = Field(default_factory=list)
    configured_audience_models: list[ConfiguredAudienceModelForm] = Field(default_factory=list)
    generation_jobs: list[JobForm] = Field(default_factory=list)


class Declaration(_Sections):
    """Everything one file declares: parties, then resources, parents first.

    Args:
        account: Whose resources it declares, by name or id; also of templates and buckets that name no other.
        region: Where they are.
        folder: Where the file lies; relative paths start there.
    """

    folder: Path = Path()


def read_declaration(path: Path) -> Declaration:
    """Read a declaration file.

    Raises:
        UsageError: It is missing, no YAML, or not of the form; the message names the place, never the value.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError("The declaration file is too large.", remedy="Declare data by path, not by value.")
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The declaration file cannot be read ({type(error).__name__}).", remedy="Check the path."
        ) from None
    if not isinstance(raw, dict):
        raise UsageError(
            "The declaration file declares nothing.",
            remedy="Start from that of `cleanroom example FOLDER`.",
        )
    try:
        declaration = _Sections.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise UsageError(
            f"The declaration is wrong at {_place(first['loc'])}: {first['msg'].removeprefix('Value error, ')}.",
            remedy="Mend it there; nothing was changed.",
        ) from None
    _check_names(declaration)
    return Declaration(folder=path.resolve().parent, **dict(declaration))


def _place(location: tuple[int | str, ...]) -> str:
    """Where a mistake is: the keys and positions that lead to it, each cut short."""
    parts = ("".join(c if c.isprintable() else "?" for c in str(part)[:_MAX_KEY]) for part in location)
    return ".".join(parts) or "its top"


def _check_names(declaration: _Sections) -> None:
    for section in SECTIONS:
        first_at: dict[tuple[str, str], int] = {}
        for number, form in enumerate(getattr(declaration, section)):
            of_account = (form.account or declaration.account) if isinstance(form, TemplateForm) else ""
            before = first_at.setdefault((form.name, of_account), number)
            if before != number:
                raise UsageError(
                    f"The declaration is wrong at {section}.{number}.name: {section}.{before} has the same name.",
                    remedy="Give each a name of its own.",
                )
