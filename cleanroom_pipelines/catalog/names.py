"""Names and identifiers of resources, and their rules.

Lives here: rules for names, descriptions, tags, buckets and access keys; partition keys; UUIDs; ARNs.
Add here when a new kind of name or identifier appears.
Keep out: the database; `resources.py` checks whether a name is taken.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cleanroom_pipelines.errors import UsageError

LOCAL_ACCOUNT = "000000000000"
LOCAL_REGION = "us-east-1"

MAX_NAME = 63
MAX_DESCRIPTION = 255
MAX_TAGS = 50
MAX_TAG_KEY = 128
MAX_TAG_VALUE = 256

# AWS's patterns are UTF-16, where an emoji is a surrogate pair that the pattern allows. Python's `re` counts code
# points, so the astral planes are listed here. A lone surrogate is not text and is excluded.
_TEXT = "\\u0020-\\uD7FF\\uE000-\\uFFFD\\U00010000-\\U0010FFFF\\t"
_NAME = re.compile(f"[{_TEXT}]+")
_DESCRIPTION = re.compile(f"[{_TEXT}\\r\\n]*")
# Control characters, characters without width (but for joiners, which scripts need), separators of lines
# and paragraphs, and bidirectional controls: with these, a name can look like another one.
_INVISIBLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]"
)
_SPACES_OF_A_TEXT = str.maketrans("", "", "\t\r\n")
_ACCOUNT = re.compile("[0-9]{12}")
_REGION = re.compile("[-a-z0-9]{1,40}")
_ACCESS_KEY = re.compile("AKIA[A-Z2-7]{16}")
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The region in the API's pattern of a template's ARN.
_TEMPLATE_REGION = re.compile("[a-z]{2}-[a-z]{4,9}-[0-9]")
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_RESERVED_BUCKET = re.compile("(xn--|sthree-).*|.*(-s3alias|--ol-s3|\\.mrap|--x-s3|--table-s3)")
_BUCKET_URL = re.compile(r"s3://(?P<bucket>[^/]+)(?:/(?P<prefix>.*))?")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()=,@ -]{1,255}")
_MAX_PREFIX = 1024  # S3's limit for a key


class Kind(StrEnum):
    """The kinds of resource, parents before children; the values are the names that all packages use.

    The first five belong to the lookalike (AWS) API, the last four to the data-room (Media) API.
    """

    TRAINING_DATASET = "training_dataset"
    AUDIENCE_MODEL = "audience_model"
    CONFIGURED_AUDIENCE_MODEL = "configured_audience_model"
    GENERATION_JOB = "generation_job"
    EXPORT_JOB = "export_job"
    DATA_LAB = "data_lab"
    DATA_ROOM = "data_room"
    CUSTOM_AUDIENCE = "custom_audience"
    AUDIENCE_LIST = "audience_list"

    @property
    def words(self) -> str:
        """The kind's name as written in a sentence."""
        return self.value.replace("_", " ")


_ARN_TYPES = {
    Kind.TRAINING_DATASET: "training-dataset",
    Kind.AUDIENCE_MODEL: "audience-model",
    Kind.CONFIGURED_AUDIENCE_MODEL: "configured-audience-model",
    Kind.GENERATION_JOB: "audience-generation-job",
}
_KINDS_BY_ARN_TYPE = {arn_type: kind for kind, arn_type in _ARN_TYPES.items()}
_ARN = re.compile(
    "arn:aws:cleanrooms-ml:(?P<region>[-a-z0-9]+):(?P<account>[0-9]{12}):(?P<type>[-a-z]+)/(?P<id>[-a-z0-9]+)"
)


@dataclass(frozen=True)
class ArnParts:
    """The parsed parts of an ARN of this installation.

    Attributes:
        kind: The kind of resource.
        account_id: 12 digits.
        region: Such as `us-east-1`.
        id: The resource's partition key.
    """

    kind: Kind
    account_id: str
    region: str
    id: str


def slug(name: str) -> str:
    """Return the human-readable part of a partition key.

    Args:
        name: Any text.

    Returns:
        The name in lower case, each run of characters outside a-z0-9 replaced by one dash, none at the ends; 1 to
        40 characters.
    """
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "x"


def partition_key(name: str, token_hex: Callable[[int], str]) -> str:
    """Return a new resource id, `<slug>-<12 hex>`, used in the catalogue, in Dagster and in the ARN.

    Args:
        name: The resource's name.
        token_hex: Returns n random bytes as 2 n hex digits, like `secrets.token_hex`.
    """
    return f"{slug(name)}-{token_hex(6)}"


def make_uuid(token_hex: Callable[[int], str]) -> str:
    """Return a new UUID: 36 characters, lower-case hex in groups of 8-4-4-4-12.

    Args:
        token_hex: Returns n random bytes as 2 n hex digits, like `secrets.token_hex`.
    """
    digits = token_hex(16)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID in the form that `make_uuid` writes and the AWS API requires."""
    return _UUID.fullmatch(text) is not None


def owner_job_name(starter_account_id: str, name: str, mark: str = "") -> str:
    """Return the name of a cross-account job in the account that owns its configured model.

    `<account>-<name>` as in AWS (source: user guide, cross-account behaviours). A longer name is truncated and
    ends in `~` and six hex digits of its SHA-256, so that different long names stay different; AWS does not
    document this case.

    Args:
        starter_account_id: The account that started the job.
        name: The starter's name for the job.
        mark: Six hex digits for the end if the name is taken: the starter cannot know the other account's names,
            so they must not cause a rejection.
    """
    whole = f"{starter_account_id}-{name}"
    if len(whole) <= MAX_NAME and not mark:
        return whole
    mark = mark or hashlib.sha256(whole.encode()).hexdigest()[:6]
    return f"{whole[: MAX_NAME - 1 - len(mark)]}~{mark}"


def make_template_arn(account_id: str, region: str, token_hex: Callable[[int], str]) -> str:
    """Return the ARN of a new analysis template.

    Args:
        account_id: Its owner.
        region: Such as `us-east-1`.
        token_hex: As in `make_uuid`.

    Raises:
        UsageError: The account or the region is invalid in such an ARN.
    """
    check_account(account_id, region)
    check_template_region(region)
    membership, template = make_uuid(token_hex), make_uuid(token_hex)
    return f"arn:aws:cleanrooms:{region}:{account_id}:membership/{membership}/analysistemplate/{template}"


def make_arn(kind: Kind, account_id: str, region: str, resource_id: str) -> str | None:
    """Return a resource's ARN; None for export jobs and kinds outside the AWS API, which have none."""
    arn_type = _ARN_TYPES.get(kind)
    return arn_type and f"arn:aws:cleanrooms-ml:{region}:{account_id}:{arn_type}/{resource_id}"


def parse_arn(arn: str) -> ArnParts | None:
    """Parse an ARN; return None if it cannot be an ARN of this installation."""
    match = _ARN.fullmatch(arn)
    if match is None or match["type"] not in _KINDS_BY_ARN_TYPE:
        return None
    return ArnParts(_KINDS_BY_ARN_TYPE[match["type"]], match["account"], match["region"], match["id"])


def is_fit_to_show(text: str) -> bool:
    """Return whether a one-line text is in Unicode form NFC and has no invisible characters."""
    return not _INVISIBLE.search(text) and unicodedata.is_normalized("NFC", text)


def as_label(text: str) -> str:
    """Normalise an external text, such as a file name, to NFC, and replace its invisible characters by `_`."""
    return _INVISIBLE.sub("_", unicodedata.normalize("NFC", text))


def check_name(name: str) -> None:
    """Reject a name that the AWS API would reject, or that could be mistaken for another one; emoji are allowed.

    Raises:
        UsageError: Not 1 to 63 characters, blank, not in NFC, or with a control or bidirectional character.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or not name.strip() or not is_fit_to_show(name):
        raise UsageError(
            "The name is invalid.",
            remedy=f"Give a name of 1 to {MAX_NAME} characters on one line, not only blanks, in Unicode form NFC, "
            "without control or bidirectional characters.",
        )


def check_description(description: str | None) -> None:
    """Reject a description that the AWS API would reject.

    Raises:
        UsageError: The text has more than 255 characters, is not in NFC, or has bidirectional characters or
            control characters other than tabs and line ends.
    """
    if description is None:
        return
    if len(description) > MAX_DESCRIPTION or not _is_a_text(description):
        raise UsageError(
            "The description is invalid.",
            remedy=f"Give at most {MAX_DESCRIPTION} characters in Unicode form NFC, without control or "
            "bidirectional characters.",
        )


def _is_a_text(text: str) -> bool:
    return bool(_DESCRIPTION.fullmatch(text)) and is_fit_to_show(text.translate(_SPACES_OF_A_TEXT))


def check_label(what: str, text: str | None, max_length: int) -> None:
    """Reject a label that is empty, too long, or could be mistaken for another one.

    Raises:
        UsageError: The label is invalid; the message names `what`, not the text.
    """
    check_text(what, text, max_length)
    if text is not None and not is_fit_to_show(text):
        raise UsageError(
            f"The {what} is invalid.",
            remedy="Normalise it to NFC, and remove control and bidirectional characters.",
        )


def check_text(what: str, text: str | None, max_length: int = 2048) -> None:
    """Reject an external text (a location, another system's id) that is empty, too long or unprintable.

    Raises:
        UsageError: The text is invalid; the message names `what`, not the text.
    """
    if text is None:
        return
    if not text.strip() or len(text) > max_length or not _NAME.fullmatch(text):
        raise UsageError(
            f"The {what} is invalid.",
            remedy=f"Give 1 to {max_length} characters on one line, not only blanks.",
        )


def check_tags(tags: Mapping[str, str]) -> None:
    """Reject tags that exceed the AWS API's limits on their number and length, or use a reserved key.

    Raises:
        UsageError: More than 50, a key or value of the wrong length, or a reserved key.
    """
    if len(tags) > MAX_TAGS:
        raise UsageError(f"There are more than {MAX_TAGS} tags.", remedy=f"Keep at most {MAX_TAGS}.")
    check_tag_keys(tags)
    for value in tags.values():
        if len(value) > MAX_TAG_VALUE or not _is_a_text(value):
            raise UsageError(
                "A tag's value is invalid.",
                remedy=f"Give at most {MAX_TAG_VALUE} characters without control characters.",
            )


def check_tag_keys(keys: Iterable[str]) -> None:
    """Reject invalid tag keys.

    Raises:
        UsageError: A key of the wrong length, with control characters, or beginning with `aws:`.
    """
    for key in keys:
        if not 1 <= len(key) <= MAX_TAG_KEY or not _NAME.fullmatch(key) or not is_fit_to_show(key):
            raise UsageError("A tag's key is invalid.", remedy=f"Give 1 to {MAX_TAG_KEY} characters on one line.")
        if key.lower().startswith("aws:"):
            raise UsageError("A tag's key starts with the reserved prefix aws:.", remedy="Choose another key.")


def check_account(account_id: str, region: str) -> None:
    """Reject an account or region that is invalid in an ARN.

    Raises:
        UsageError: The account is not 12 digits, or the region has characters other than a-z, 0-9 and dash.
    """
    if not _ACCOUNT.fullmatch(account_id):
        raise UsageError("The account id is not 12 digits.", remedy="Give an account id of 12 digits.")
    if not _REGION.fullmatch(region):
        raise UsageError("The region is invalid.", remedy=f"Give a region such as {LOCAL_REGION}.")


def check_template_region(region: str) -> None:
    """Reject a region that is invalid in a template's ARN.

    Raises:
        UsageError: Not of the form us-east-1.
    """
    if not _TEMPLATE_REGION.fullmatch(region):
        raise UsageError("The region does not support templates.", remedy=f"Give a region such as {LOCAL_REGION}.")


def is_account_id(text: str) -> bool:
    """Return whether a text has the form of an account id."""
    return _ACCOUNT.fullmatch(text) is not None


def check_access_key_id(key_id: str) -> None:
    """Reject an access key id that does not have AWS's form.

    Raises:
        UsageError: Not AKIA and 16 characters of A-Z and 2-7.
    """
    if not _ACCESS_KEY.fullmatch(key_id):
        raise UsageError(
            "The access key id is invalid.", remedy="Give AKIA and 16 characters of A to Z and 2 to 7."
        )


def check_bucket_name(name: str) -> None:
    """Reject a bucket name that S3 would reject.

    Raises:
        UsageError: Not 3 to 63 of a-z, 0-9, dot and dash between letters or digits, or a form reserved by S3.
    """
    is_plain = _BUCKET.fullmatch(name) and ".." not in name and not _IP_ADDRESS.fullmatch(name)
    if not is_plain or _RESERVED_BUCKET.fullmatch(name):
        raise UsageError(
            "The bucket's name is invalid.",
            remedy="Give 3 to 63 characters of a-z, 0-9, dot and dash, by S3's naming rules.",
        )


def check_bucket_url(url: str) -> None:
    """Reject a URL of a real bucket that is not `s3://bucket` or `s3://bucket/prefix`.

    Raises:
        UsageError: The form differs, or the prefix could point elsewhere.
    """
    match = _BUCKET_URL.fullmatch(url.removesuffix("/"))
    if match is None:
        raise UsageError("The bucket's URL is invalid.", remedy="Give s3://bucket or s3://bucket/prefix.")
    check_bucket_name(match["bucket"])
    prefix = match["prefix"] or ""
    segments = prefix.split("/") if prefix else []
    if len(prefix) > _MAX_PREFIX or not all(_is_segment(segment) for segment in segments):
        raise UsageError(
            "The prefix of the bucket's URL is invalid.",
            remedy="Use only letters, digits, spaces and !_.*'()=,@- in its folder names. "
            "The names . and .. are not allowed.",
        )


def _is_segment(segment: str) -> bool:
    return bool(_SEGMENT.fullmatch(segment)) and segment not in {".", ".."}
