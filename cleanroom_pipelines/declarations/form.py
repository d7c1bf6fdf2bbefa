"""The form of a declaration file.

Lives here: the pydantic models and the reading of YAML, with messages that name the place of a mistake.
Keep out: comparing with the catalogue (applying.py).
"""

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cleanroom_pipelines.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MAX_BYTES = 4_000_000


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
    if isinstance(value, bool):
        raise ValueError("write a date as 2017-10-30")
    if isinstance(value, int):
        return value
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


Duration = Annotated[int, BeforeValidator(parse_duration)]
Moment = Annotated[int, BeforeValidator(parse_moment)]
Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
Role = Literal["USER_ID", "ITEM_ID", "TIMESTAMP", "CATEGORICAL_FEATURE", "NUMERICAL_FEATURE"]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Named(_Form):
    name: Text
    description: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class Table(_Form):
    """A table: where it lies and what its columns mean."""

    source: str
    columns: dict[str, Role]


class TrainingDatasetForm(_Named):
    """A training dataset; `source` is relative to the declaration file."""

    source: str
    columns: dict[str, Role]
    users: Table | None = None
    max_invalid_share: float = 0.05


class Window(_Form):
    """A half-open training window."""

    start: Moment | None = None
    end: Moment | None = None


class Refresh(_Form):
    """How often a model is trained again, on which window, and that seeds are kept for it."""

    every: Duration
    window: Duration | None = None
    keep_seed: bool = True


class AudienceModelForm(_Named):
    """An audience model of a training dataset of the same file or of the catalogue."""

    training_dataset: Text
    window: Window = Window()
    refresh: Refresh | None = None


class ConfiguredAudienceModelForm(_Named):
    """What may be done with a model."""

    audience_model: Text
    sizes: list[Text] = Field(min_length=1)
    output: str
    minimum_matching_seed_size: int = 500
    share_metrics: bool = False
    share_explanation: bool = False
    export_format: Literal["jsonl", "csv", "parquet"] = "jsonl"


class GenerationJobForm(_Named):
    """A generation job; `seed` is relative to the declaration file."""

    configured_audience_model: Text
    seed: str
    seed_mode: Literal["excluded", "first", "in_place"] = "excluded"
    keep_seed: bool = False
    exports: list[Text] = Field(default_factory=list)


class Declaration(_Form):
    """Everything one file declares, parents first.

    Args:
        folder: Where the file lies; relative paths start there.
    """

    folder: Path = Path()
    training_datasets: list[TrainingDatasetForm] = Field(default_factory=list)
    audience_models: list[AudienceModelForm] = Field(default_factory=list)
    configured_audience_models: list[ConfiguredAudienceModelForm] = Field(default_factory=list)
    generation_jobs: list[GenerationJobForm] = Field(default_factory=list)


def read_declaration(path: Path) -> Declaration:
    """Read a declaration file.

    Raises:
        UsageError: It is missing, no YAML, or not of the form; the message names the place, never the value.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError("The declaration file is too large.", remedy="Declare data by path, not by value.")
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The declaration file cannot be read ({type(error).__name__}).", remedy="Check the path."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise UsageError(f"The declaration file is no YAML{place}.", remedy="Mend it there.") from None
    if not isinstance(raw, dict):
        raise UsageError("The declaration file declares nothing.", remedy="Start from data/example/cleanroom.yaml.")
    try:
        declaration = Declaration.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"The declaration is wrong at {place}: {first['msg'].removeprefix('Value error, ')}.",
            remedy="Mend it there; nothing was changed.",
        ) from None
    _check_names(declaration)
    return declaration.model_copy(update={"folder": path.resolve().parent})


def _check_names(declaration: Declaration) -> None:
    for section in ("training_datasets", "audience_models", "configured_audience_models", "generation_jobs"):
        names = [form.name for form in getattr(declaration, section)]
        if len(set(names)) < len(names):
            raise UsageError(
                f"Two {section.replace('_', ' ')} of the declaration have the same name.",
                remedy="Give each a name of its own.",
            )
