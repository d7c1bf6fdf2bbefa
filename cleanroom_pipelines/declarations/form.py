"""The schema of a declaration file, and reading it.

Lives here: the pydantic models, and messages that name the place of an error; reading text files that the operator
wrote; loading YAML from an untrusted file, without duplicate keys and aliases that expand to very large documents.
Add here when a declared resource gets a field.
Keep out: comparing with the catalogue (applying.py).
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cleanroom_pipelines.audiences.sizes import SeedMode
from cleanroom_pipelines.catalog.names import LOCAL_ACCOUNT, LOCAL_REGION, MAX_NAME, Kind, is_account_id
from cleanroom_pipelines.delivery.holdouts import Holdout
from cleanroom_pipelines.errors import CleanroomError, UsageError
from cleanroom_pipelines.storage.s3_urls import split_s3_url
from cleanroom_pipelines.uploads.roles import Role

PARTY_SECTIONS = ("accounts", "collaborations", "templates", "buckets", "notices")
SECTIONS = (
    *PARTY_SECTIONS,
    "training_datasets",
    "audience_models",
    "configured_audience_models",
    "generation_jobs",
)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MAX_BYTES = 500_000  # PyYAML reads this in ten seconds at worst
_MAX_KEY = 60


def parse_duration(value: object) -> int:
    """Parse a duration such as `7d`, `90d`, `12h` or `30m` into seconds.

    Raises:
        ValueError: The duration is invalid.
    """
    match = re.fullmatch(r"(\d{1,9})\s*([smhdw])", str(value).strip())
    if match is None:
        raise ValueError("write a duration as 30m, 12h, 7d or 2w")
    return int(match.group(1)) * _SECONDS[match.group(2)]


def parse_moment(value: object) -> int:
    """Parse a time (a date, an ISO date and time, or epoch seconds) into epoch seconds UTC.

    Raises:
        ValueError: The time is invalid.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        moment = datetime.fromisoformat(str(value))
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        # the original error's text quotes the value
        raise ValueError("write a time as 2017-10-30, 2017-10-30T12:00:00 or epoch seconds") from None


def _as_text(value: object) -> object:
    # YAML reads an audience size such as 5000 and a name such as 2024 as numbers
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked_output(value: object) -> object:
    if isinstance(value, str):
        try:
            split_s3_url(value, what="destination")
        except UsageError as error:
            said = error.message[:1].lower() + error.message[1:]
            raise ValueError(
                f"{said} Write s3://audiences/NAME for a folder in CLEANROOM_HOME, or name a registered bucket. "
                f"{error.remedy.removesuffix('.')}"
            ) from None
    return value


def _as_account(value: object) -> object:
    text = _as_text(value)
    # YAML reads digits with a leading zero as an octal number, or drops the zero
    if text is not value and not is_account_id(str(text)):
        raise ValueError("write an account id in quotes")
    return text


Duration = Annotated[int, BeforeValidator(parse_duration)]
Moment = Annotated[int, BeforeValidator(parse_moment)]
Text = Annotated[str, BeforeValidator(_as_text)]
AccountText = Annotated[str, BeforeValidator(_as_account)]
Output = Annotated[str, BeforeValidator(_checked_output)]
# YAML has text only; strict mode would require enum members.
RoleWord = Annotated[Role, Field(strict=False)]
SeedModeWord = Annotated[SeedMode, Field(strict=False)]


KindWord = Annotated[Kind, Field(strict=False)]


class _Form(BaseModel):
    # strict: a YAML number is not accepted as text, nor `true` as 1
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Named(_Form):
    name: Text
    description: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)


class TableForm(_Form):
    """A table: the location of its files and the roles of its columns."""

    source: str
    columns: dict[str, RoleWord]


class TrainingDatasetForm(_Named):
    """A training dataset; `source` is relative to the declaration file."""

    source: str
    columns: dict[str, RoleWord]
    users: TableForm | None = None
    max_invalid_share: float = 0.05


class WindowForm(_Form):
    """A training window: from `start`, up to but not including `end`."""

    start: Moment | None = None
    end: Moment | None = None


class Refresh(_Form):
    """How often a model is refreshed, how long its training window is, and whether its jobs keep their seeds."""

    every: Duration
    window: Duration | None = None
    keep_seed: bool = False


class AudienceModelForm(_Named):
    """An audience model; its training dataset is in the same file or in the catalogue."""

    training_dataset: Text
    window: WindowForm = WindowForm()
    refresh: Refresh | None = None


class DeliveryForm(_Form):
    """Options of an export in addition to its format.

    `holdout` leaves out a control group, with the same users at each refresh; `changes` adds the users added and
    removed since the previous export to the export of a refresh.
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
    """How a model may be used: audience sizes, smallest seed, shared results, output and delivery."""

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

    Without `keep_seed`, the `refresh` of its audience model decides whether the seed is kept.
    """

    configured_audience_model: Text
    seed: str
    seed_mode: SeedModeWord = SeedMode.EXCLUDED
    keep_seed: bool | None = None
    exports: list[Text] = Field(default_factory=list)


class AccountForm(_Form):
    """An account. Create its access keys with `cleanroom account key create`, which shows each secret once."""

    name: Text
    id: AccountText | None = None
    organization: Text | None = None


class CollaborationForm(_Form):
    """Accounts, by name or id, that may start jobs on each other's models if the models' policies allow it."""

    name: Text
    members: list[AccountText] = Field(min_length=1)
    seed: Literal["in-place", "removed"] = "in-place"
    privacy: Literal["private", "full"] = "private"
    period: Literal["life", "month"] = "life"


class TemplateForm(_Form):
    """An analysis template: SQL that selects the users of a seed; `sql` is relative to the declaration file."""

    name: Text
    account: AccountText | None = None
    sql: str
    collaboration: Text | None = None


class BucketForm(_Form):
    """A bucket of one account: a folder in CLEANROOM_HOME, or the object-store bucket at `url`."""

    name: Text
    account: AccountText | None = None
    url: str | None = None
    credentials_profile: str | None = None


class WebhookForm(_Form):
    """A URL that receives notices; `secret` names the secret that signs the notices."""

    url: str
    secret: str | None = None


class MailForm(_Form):
    """An e-mail address that receives notices; `secret` names the secret with the mail server's password."""

    to: str
    sender: str = Field(alias="from")
    host: str
    port: int = 587
    user: str | None = None
    secret: str | None = None


class NoticeForm(_Form):
    """A receiver of notices that work has ended: a webhook, an e-mail address or a command.

    With `organization`, it gets those about work that this organisation owns or requested. A command gets the
    notices about all work.
    """

    name: Text
    organization: Text | None = None
    kinds: list[KindWord] = Field(default_factory=list)
    only_failures: bool = False
    webhook: WebhookForm | None = None
    email: MailForm | None = None
    command: str | None = None

    @model_validator(mode="after")
    def _has_one_channel(self) -> Self:
        if sum(channel is not None for channel in (self.webhook, self.email, self.command)) != 1:
            raise ValueError("give one of webhook, email and command")
        return self


class _Sections(_Form):
    account: AccountText = LOCAL_ACCOUNT
    region: str = LOCAL_REGION
    accounts: list[AccountForm] = Field(default_factory=list)
    collaborations: list[CollaborationForm] = Field(default_factory=list)
    templates: list[TemplateForm] = Field(default_factory=list)
    buckets: list[BucketForm] = Field(default_factory=list)
    notices: list[NoticeForm] = Field(default_factory=list)
    training_datasets: list[TrainingDatasetForm] = Field(default_factory=list)
    audience_models: list[AudienceModelForm] = Field(default_factory=list)
    configured_audience_models: list[ConfiguredAudienceModelForm] = Field(default_factory=list)
    generation_jobs: list[JobForm] = Field(default_factory=list)


class Declaration(_Sections):
    """The content of a declaration file: accounts and related objects, then resources, parents first.

    Args:
        account: Owner of the resources, by name or id; also the default owner of templates and buckets.
        region: Region of the resources.
        folder: Folder of the file; relative paths start there.
    """

    folder: Path = Path()

    def placed(self, section: str) -> Iterator[tuple[Any, str]]:
        """Yield the entries of a section, each with its description for error messages."""
        for number, form in enumerate(getattr(self, section)):
            yield form, place_of(section, number, form.name)


def read_declaration(path: Path) -> Declaration:
    """Read a declaration file.

    Raises:
        UsageError: The file is missing, is not YAML, or violates the schema; the message names the place, never
            the value.
    """
    with suppress(OSError):
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(
                "The declaration file is too large.", remedy="Give the paths of data files instead of the data."
            )
    raw = load_yaml(read_text(path, "declaration file", remedy="Check the path."))
    if not isinstance(raw, dict):
        raise UsageError(
            "The declaration file declares nothing.",
            remedy="Start from the file that `cleanroom example FOLDER` copies.",
        )
    try:
        declaration = _Sections.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise UsageError(
            f"The declaration is wrong at {_place(first['loc'], raw)}: "
            f"{first['msg'].removeprefix('Value error, ')}.",
            remedy="Fix it; nothing was changed.",
        ) from None
    _check_names(declaration)
    return Declaration(folder=path.resolve().parent, **dict(declaration))


def place_of(section: str, number: int, name: object) -> str:
    """Describe an entry for error messages: its kind and name, or its position if the name cannot be shown."""
    text = _as_text(name)
    if not isinstance(text, str) or not text or len(text) > MAX_NAME or not text.isprintable():
        return f"{section}.{number}"
    return f"the {section.replace('_', ' ').removesuffix('s')} {text!r}"


def _place(location: tuple[int | str, ...], raw: dict[str, object]) -> str:
    """Describe an error's location for messages: the entry, then keys and positions in it, each truncated."""
    match location, raw.get(str(location[0])) if location else None:
        case (str(section), int(number), *keys), list(entries) if section in SECTIONS:
            entry = entries[number]
            first = [place_of(section, number, entry.get("name") if isinstance(entry, dict) else None)]
        case _:
            first, keys = [], list(location)
    rest = ("".join(c if c.isprintable() else "?" for c in str(part)[:_MAX_KEY]) for part in keys)
    return ", ".join([*first, *filter(None, [".".join(rest)])]) or "the top level"


def _check_names(declaration: _Sections) -> None:
    for section in SECTIONS:
        first_at: dict[tuple[str, str], int] = {}
        for number, form in enumerate(getattr(declaration, section)):
            of_account = (form.account or declaration.account) if isinstance(form, TemplateForm) else ""
            before = first_at.setdefault((form.name, of_account), number)
            if before != number:
                place = place_of(section, number, form.name)
                raise UsageError(
                    f"The declaration is wrong at {place}: another entry has this name.",
                    remedy="Give each a unique name.",
                )


# Few files of half a megabyte have more. PyYAML resolves aliases without copying, but merges (`<<`) copy: nine
# lines of merges can produce a billion keys.
_MAX_NODES = 200_000
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but dates stay text, because its date parser raises errors without a line number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_text(path: Path, what: str, *, remedy: str) -> str:
    """Read a UTF-8 file that the operator wrote, without the byte order mark that editors on Windows add.

    Args:
        path: The file.
        what: Its name in messages, such as "declaration file".
        remedy: What to do if it cannot be read.

    Raises:
        UsageError: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        problem, remedy = f"The {what} is not in UTF-8.", "Save it as UTF-8."
    except OSError as error:
        problem = f"The {what} cannot be read ({type(error).__name__})."
    # Raised outside the handler: the text of a decoding error quotes the file.
    raise UsageError(problem, remedy=remedy)


def load_yaml(text: str) -> Any:
    """Parse one YAML document.

    Args:
        text: The document.

    Returns:
        Dictionaries, lists, texts, numbers, booleans and None; dates are text, and so are keys, which may be
        columns named `on`, `no` or `2023`.

    Raises:
        UsageError: The YAML is invalid, has a duplicate key, or expands to too many nodes; the message names the
            line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            _check_keys(node, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UsageError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise UsageError(f"Invalid YAML in the declaration file{place}.", remedy="Fix the syntax.") from None
    except RecursionError:
        raise UsageError("The declaration file is nested too deeply.", remedy="Use fewer levels.") from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        # PyYAML's constructors raise these for a value that does not match its tag, such as !!int of a word
        raise UsageError(
            "A value in the declaration file does not match its type tag.", remedy="Remove the !! tags."
        ) from None


def _check_size(root: yaml.Node) -> None:
    """Reject a document that is too large after expanding every alias."""
    sizes: dict[int, int] = {}
    under_way: set[int] = set()

    def size_of(node: yaml.Node) -> int:
        key = id(node)
        if key in under_way:
            raise UsageError(
                f"The declaration refers to itself at line {_line(node)}.", remedy="Remove the alias."
            )
        if key not in sizes:
            under_way.add(key)
            sizes[key] = 1 + sum(size_of(child) for child in _children(node))
            under_way.discard(key)
            if sizes[key] > _MAX_NODES:
                raise UsageError(
                    f"The declaration is too large at line {_line(node)} after expanding its aliases.",
                    remedy="Use fewer aliases and merges.",
                )
        return sizes[key]

    size_of(root)


def _check_keys(node: yaml.Node, seen: set[int]) -> None:
    """Read keys as text, and reject duplicate ones; PyYAML would silently keep only the last one."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise UsageError(
                        f"Duplicate key in the declaration at line {_line(key)}.", remedy="Merge the two entries."
                    )
                keys.add(key.value)
                key.tag = key.tag if key.tag == _MERGE else _TEXT
    for child in _children(node):
        _check_keys(child, seen)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
