"""Rules of ad destinations: which ids each accepts, how ids are normalised before hashing, and its files' columns.

Lives here: one rule per destination, and the hashes that follow from it.
Add here when a destination is added, or changes its rules.
Keep out: our own normal forms (`identity`) and writing files (`delivery.writing`).

The rules and their sources. All were looked up on 2026-11-27 in stored copies of the vendors' public pages and
were not tested by an upload; the year is that of the copy, if it states one. Every hash is SHA-256 of the UTF-8
text, as 64 lower-case hex digits, without salt.

plain: one user id per line, no header; the user list of the Media API.

google (Customer Match): columns `Email` and `Phone`, a CSV. E-mail: no white space, lower case; at gmail.com and
    googlemail.com the dots before the @ are removed, and a plus sign with everything after it. Phone: E.164 with
    `+`.
    Sources: Google Ads Help, "Format your customer data file" (columns); Data Manager API, "Format user data"
    (both rules); the copies state no year.
    Not verified: that the file upload of Google Ads normalises Gmail addresses as that API does; the help pages
    require only lower case and no spaces.

meta (custom audiences from a customer list): columns `email` and `phone`, a CSV. E-mail: no white space around
    it, lower case; plus signs and dots are kept. Phone: digits only, with the country code, without symbols and
    leading zeros.
    Sources: Meta Business Help Centre, "How to format a customer list when creating a custom audience"
    (columns); the Marketing API's "Customer File Custom Audiences", section "Hashing and Normalizing Data".
    Not verified: that section itself. Its rules were read where another vendor (HCL Unica Link) repeats
    them; the help page was read on a mirror that states no year.

tiktok (customer file): columns `Email_SHA256` and `Phone_SHA256`, a CSV, one id per line. E-mail: no spaces, lower
    case. Phone: E.164 with `+`. Fewer than 1,000 lines, or a file of 1 GB, are rejected there.
    Sources: TikTok Ads Help, "How to create a Custom Audience with a customer file", September 2025 (rules);
    "List of supported IDs and formats for a customer file", 2025 (columns).
    The pages changed: in summer 2025 they also removed a plus sign and the rest from e-mails, and in August
    2025 the `+` from phones. The newest recommends the `+` and also accepts phones without it; its own example
    has none. It writes the columns with a space, `Email_SHA 256`, which is probably a typo.

liveramp (a column-based CSV as LiveRamp Connect onboards it): column `EMAIL1_SHA-256`, or `CUSTOMID` for the
    exporter's own ids; never both in one file. E-mail: no white space, lower case.
    Sources: LiveRamp documentation, "Hashing Identifiers", "Formatting Identifiers", "Formatting Column-Based
    Files".
    Phones are left out: hashed ones are accepted only as SHA-1 of the number without country code, and not at all
    in files from the EU.
    Not verified: the header names. The documented pattern is `EMAIL1_SHA-1`, `EMAIL1_SHA-256` follows it;
    `CUSTOMID` is our choice, to be agreed with LiveRamp before the first upload.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.delivery.formats import PLAIN, FileFormat
from cleanroom_pipelines.errors import EngineError, UsageError
from cleanroom_pipelines.identity import judge_ids, sha256_hex
from cleanroom_pipelines.terms import Family, MatchingId


class AdDestination(StrEnum):
    """The platform that a delivery is uploaded to."""

    PLAIN = "plain"
    GOOGLE = "google"
    META = "meta"
    TIKTOK = "tiktok"
    LIVERAMP = "liveramp"

    @property
    def words(self) -> str:
        """The destination's display name."""
        return _RULES[self].words


class DestinationRuleError(UsageError):
    """The destination does not accept ids of this kind; see the attributes `destination` and `kind`."""


@dataclass(frozen=True)
class _DestinationRule:
    """The ids that one destination accepts, and the columns of its files.

    Args:
        words: Its display name.
        columns: The column name for the hashes of each family that it accepts.
        forms: Conversions applied to our normal form before hashing, by family; none for a family whose normal
            form the destination hashes unchanged.
        id_column: The column name for the exporter's own ids; None if it does not accept them.
    """

    words: str
    columns: Mapping[Family, str]
    forms: Mapping[Family, Callable[[pa.Array], pa.Array]]
    id_column: str | None = None


def serves(destination: AdDestination, kind: MatchingId) -> bool:
    """Whether a destination accepts ids of a kind."""
    return reason_not_served(destination, kind) is None


def reason_not_served(destination: AdDestination, kind: MatchingId) -> str | None:
    """Return a sentence that says why a destination does not accept ids of a kind; None if it accepts them.

    Uploaded hashes fit only destinations that normalise as we do, since a hash cannot be converted.
    """
    rule = _RULES[destination]
    if destination is AdDestination.PLAIN:
        return None
    if kind is MatchingId.STRING:
        return (
            None
            if rule.id_column
            else f"{rule.words} accepts e-mail addresses and phone numbers, not your own ids."
        )
    if kind.family not in rule.columns:
        return f"{rule.words} does not accept phone numbers hashed with SHA-256."
    if kind.is_hashed and kind.family in rule.forms:
        return (
            f"{rule.words} normalises {_NAMES[kind.family]} differently before hashing, so uploaded "
            "hashes do not match there."
        )
    return None


def require_served(destination: AdDestination, kind: MatchingId) -> None:
    """Check that a destination accepts ids of a kind.

    Raises:
        DestinationRuleError: The destination does not accept ids of this kind.
    """
    if reason := reason_not_served(destination, kind):
        raise DestinationRuleError(
            reason,
            remedy=_REMEDIES[kind],
            destination=destination.value,
            kind=kind.value,
        )


def destination_hashes(destination: AdDestination, kind: MatchingId, ids: pa.Array) -> pa.Array:
    """Hash ids in the form that a destination expects.

    Args:
        destination: The destination; not PLAIN, which gets user ids.
        kind: The kind of the ids; not STRING, which is delivered unhashed.
        ids: Strings, as given; nulls allowed.

    Returns:
        64 lower-case hex digits per id; null if the id is missing or invalid.

    Raises:
        DestinationRuleError: The destination does not accept ids of this kind.
        UsageError: There is nothing to hash.
        EngineError: Arrow failed; only the class name of its error is kept.
    """
    require_served(destination, kind)
    if destination is AdDestination.PLAIN or kind is MatchingId.STRING:
        raise UsageError(
            "Your own ids are delivered as they are, not hashed.",
            remedy="Hash only e-mail addresses or phone numbers.",
        )
    judged = judge_ids(kind, ids)
    form = None if kind.is_hashed else _RULES[destination].forms.get(kind.family)
    if form is None:
        return sha256_hex(judged)
    try:
        formed = form(judged.normal)
    except pa.ArrowException as error:
        cause = type(error).__name__
    else:
        return sha256_hex(replace(judged, normal=formed))
    # Outside the handler: Arrow's message may quote an id, and __context__ would keep it.
    raise EngineError(f"The ids could not be normalised ({cause}).", cause=cause)


def file_format(destination: AdDestination, kinds: Iterable[MatchingId]) -> FileFormat:
    """Return the file format in which a destination accepts ids of the given kinds.

    Args:
        destination: The destination.
        kinds: The kinds of the delivered ids; ignored for PLAIN.

    Raises:
        DestinationRuleError: The destination does not accept ids of one of the kinds.
        UsageError: No kind is given, or STRING together with other kinds.
    """
    if destination is AdDestination.PLAIN:
        return PLAIN
    kinds = tuple(kinds)
    for kind in kinds:
        require_served(destination, kind)
    rule, families = _RULES[destination], {kind.family for kind in kinds}
    if not families or (Family.STRING in families and len(families) > 1):
        raise UsageError(
            "A file for this destination can contain your own ids or hashes, but not both.",
            remedy="Choose one of them.",
        )
    if Family.STRING in families:
        assert rule.id_column is not None
        return FileFormat("ids", "csv", (rule.id_column,), holds_users=True)
    columns = tuple(column for family, column in rule.columns.items() if family in families)
    return FileFormat("hashes", "csv", columns, holds_users=False)


def line_around(destination: AdDestination, format_: FileFormat, family: Family) -> tuple[str, str]:
    """Return what precedes and follows the hash in a CSV line: a comma for each empty column."""
    assert format_.header is not None
    place = format_.header.index(_RULES[destination].columns[family])
    return "," * place, "," * (len(format_.header) - 1 - place)


def _gmail_form(emails: pa.Array) -> pa.Array:
    """Remove dots and the plus suffix before the @, as Gmail ignores them; null if nothing is left."""
    is_gmail = pc.match_substring_regex(emails, r"@(gmail|googlemail)\.com\z")
    if not pc.any(is_gmail, min_count=0).as_py():
        return emails
    parts = pc.extract_regex(emails, r"\A(?P<local>[^+@]*)[^@]*(?P<domain>@.*)\z")
    local = pc.replace_substring(pc.struct_field(parts, "local"), ".", "")
    formed = pc.binary_join_element_wise(local, pc.struct_field(parts, "domain"), "")
    formed = pc.if_else(pc.equal(local, ""), pa.scalar(None, pa.string()), formed)
    return pc.if_else(is_gmail, formed, emails)


def _digits_only(numbers: pa.Array) -> pa.Array:
    return pc.utf8_ltrim(numbers, characters="+")


_NAMES = {Family.EMAIL: "e-mail addresses", Family.PHONE: "phone numbers"}
_REMEDIES: Mapping[MatchingId, Any] = {
    MatchingId.STRING: "Give e-mail addresses or phone numbers, or deliver plain ids.",
    MatchingId.EMAIL: "Choose another destination.",
    MatchingId.PHONE_NUMBER: "Give e-mail addresses, or choose another destination.",
    MatchingId.HASHED_EMAIL: "Give the addresses themselves, or choose another destination.",
    MatchingId.HASHED_PHONE_NUMBER: "Give the numbers themselves, or choose another destination.",
}
_RULES = {
    AdDestination.PLAIN: _DestinationRule("A plain list", {}, {}),
    AdDestination.GOOGLE: _DestinationRule(
        "Google Customer Match", {Family.EMAIL: "Email", Family.PHONE: "Phone"}, {Family.EMAIL: _gmail_form}
    ),
    AdDestination.META: _DestinationRule(
        "Meta custom audiences", {Family.EMAIL: "email", Family.PHONE: "phone"}, {Family.PHONE: _digits_only}
    ),
    AdDestination.TIKTOK: _DestinationRule(
        "TikTok custom audiences", {Family.EMAIL: "Email_SHA256", Family.PHONE: "Phone_SHA256"}, {}
    ),
    AdDestination.LIVERAMP: _DestinationRule(
        "LiveRamp", {Family.EMAIL: "EMAIL1_SHA-256"}, {}, id_column="CUSTOMID"
    ),
}
