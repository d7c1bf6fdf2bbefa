r"""Validity and normal form of matching ids.

Lives here: trimming, lower-casing, Unicode normalisation and syntax checks of every kind, in Arrow batches.
Add here when a kind of matching id is added, or a rule about one changes.
Keep out: numbering plans (`phones`), hashing (`digests`), files and reports (`uploads`).

The normal forms, which are hashed:
- STRING: trimmed, in Unicode normal form C. Case matters.
- EMAIL: without invisible characters, trimmed, lower-cased, in Unicode normal form C, an internationalised domain
  in its ASCII form (IDNA 2008 with the mapping of UTS 46; a domain that IDNA does not allow stays as it is);
  nothing else, so `a.b+c@gmail.com` and `ab@gmail.com` are two ids. A valid address is `local@domain` with at most
  254 characters. The local part has at most 64 characters, none of them white space, a control character, a quote
  or one of `()<>[],:;\@`; its dots are single and inside. The domain has at least two labels of at most 63 letters
  or digits of any script, with hyphens inside; the last label has at least two characters and is not digits only.
- HASHED_EMAIL, HASHED_PHONE_NUMBER: without invisible characters, trimmed, lower-cased, 64 hex digits.
- PHONE_NUMBER: E.164 (`phones`).

Invisible characters are those of zero width, the byte order mark, the soft hyphen and the no-break space. A
placeholder (`placeholders`) is invalid as any kind of id.

Most ids are ASCII and are processed by Arrow as a batch; the others are processed one by one in Python, whose
definitions of white space, lower case and normal form apply.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import idna
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.errors import EngineError
from cleanroom_pipelines.identity import phones
from cleanroom_pipelines.identity.placeholders import are_placeholders
from cleanroom_pipelines.terms import MatchingId

# The ASCII characters that str.strip() removes.
_ASCII_SPACE = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_INVISIBLE = re.compile("[\u00a0\u00ad\u200b-\u200d\u2060\ufeff]")
_HEX_PATTERN = r"\A[0-9a-f]{64}\z"

_ATOM = r"[^\s\x00-\x20\x7f\"(),:;<>@\[\\\].]+"
_ALPHANUMERIC = r"[^\s\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]"
_LABEL = rf"{_ALPHANUMERIC}(?:(?:{_ALPHANUMERIC}|-){{0,61}}{_ALPHANUMERIC})?"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+{_LABEL}"
_LAST_LABEL = rf"\.{_ALPHANUMERIC}(?:{_ALPHANUMERIC}|-)+"
_DIGITS_LAST = r"\.[0-9]+"
_MAX_EMAIL_CHARACTERS = 254
_MAX_LOCAL_CHARACTERS = 64


class IdProblem(StrEnum):
    """The reason an id is invalid; the names are the codes in validation reports."""

    EMPTY_CELL = "EMPTY_CELL"
    PLACEHOLDER = "PLACEHOLDER"
    INVALID_EMAIL_FORMAT = "INVALID_EMAIL_FORMAT"
    INVALID_SHA256_HEX_FORMAT = "INVALID_SHA256_HEX_FORMAT"
    INVALID_PHONE_E164_NUMBER = "INVALID_PHONE_E164_NUMBER"


_PROBLEM_OF_KIND = {
    MatchingId.STRING: IdProblem.EMPTY_CELL,
    MatchingId.EMAIL: IdProblem.INVALID_EMAIL_FORMAT,
    MatchingId.HASHED_EMAIL: IdProblem.INVALID_SHA256_HEX_FORMAT,
    MatchingId.PHONE_NUMBER: IdProblem.INVALID_PHONE_E164_NUMBER,
    MatchingId.HASHED_PHONE_NUMBER: IdProblem.INVALID_SHA256_HEX_FORMAT,
}


@dataclass(frozen=True)
class JudgedIds:
    """A validated batch of ids.

    Args:
        kind: The kind of the ids.
        normal: The normal form of each id; null where it is invalid.
        valid: Whether each id is valid.
        empty: Whether each id is missing, empty or white space only; such ids are invalid.
        placeholder: Whether each id stands for a missing one, such as `NULL`; such ids are invalid.
        changed: Whether each id is valid and its normal form differs from the input.
    """

    kind: MatchingId
    normal: pa.Array
    valid: npt.NDArray[np.bool_]
    empty: npt.NDArray[np.bool_]
    placeholder: npt.NDArray[np.bool_]
    changed: npt.NDArray[np.bool_]

    def problems(self) -> dict[IdProblem, npt.NDArray[np.int64]]:
        """Return the 0-based positions of the invalid ids, by reason; reasons that do not occur are omitted."""
        found = {
            IdProblem.EMPTY_CELL: np.flatnonzero(self.empty),
            IdProblem.PLACEHOLDER: np.flatnonzero(self.placeholder),
        }
        others = ~self.valid & ~self.empty & ~self.placeholder
        found.setdefault(_PROBLEM_OF_KIND[self.kind], np.flatnonzero(others))
        return {problem: rows for problem, rows in found.items() if len(rows)}


def judge_ids(kind: MatchingId, ids: pa.Array) -> JudgedIds:
    """Normalise ids and check which are valid.

    Args:
        kind: The kind of the ids.
        ids: Strings, as uploaded; nulls allowed.

    Returns:
        The results, in the order of the ids.

    Raises:
        EngineError: Arrow failed, for example on ids that are not UTF-8; only the class name is kept.
    """
    try:
        return _judge(kind, ids)
    except (pa.ArrowException, UnicodeError) as error:
        cause = type(error).__name__
    # Raised outside the handler: the error may quote an id, and __context__ would keep it.
    raise EngineError(
        f"The ids could not be normalised ({cause}).",
        remedy="Check that the file is encoded in UTF-8.",
        cause=cause,
    )


def _judge(kind: MatchingId, ids: pa.Array) -> JudgedIds:
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    given = ids.cast(pa.string())
    keeps_all = kind is MatchingId.STRING
    trimmed = _trimmed(
        pc.fill_null(given, ""), lambda text: text.strip() if keeps_all else _INVISIBLE.sub("", text).strip()
    )
    empty, placeholder = _missing(trimmed)
    if kind is MatchingId.PHONE_NUMBER:
        normal = phones.e164(trimmed)
    else:
        normal, fits = _NORMALISERS[kind](trimmed)
        normal = pc.if_else(fits, normal, pa.scalar(None, pa.string()))
    return _judged(kind, given, normal, empty, placeholder)


def _judged(
    kind: MatchingId,
    given: pa.Array,
    normal: pa.Array,
    empty: npt.NDArray[np.bool_],
    placeholder: npt.NDArray[np.bool_],
) -> JudgedIds:
    valid = ~empty & ~placeholder & _mask(pc.is_valid(normal))
    normal = pc.if_else(pa.array(valid), normal, pa.scalar(None, pa.string()))
    changed = valid & _mask(pc.fill_null(pc.not_equal(normal, given), False))
    return JudgedIds(kind, normal, valid, empty, placeholder, changed)


def _trimmed(texts: pa.Array, one_other: Callable[[str], str]) -> pa.Array:
    return _by_script(texts, lambda array: pc.utf8_trim(array, characters=_ASCII_SPACE), one_other)


def _missing(trimmed: pa.Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return, for each id, whether it is empty and whether it is a placeholder."""
    return _mask(pc.equal(trimmed, "")), are_placeholders(trimmed)


def _string(trimmed: pa.Array) -> tuple[pa.Array, pa.Array]:
    normal = _by_script(trimmed, lambda array: array, lambda text: unicodedata.normalize("NFC", text))
    return normal, pc.not_equal(normal, "")


def _email(trimmed: pa.Array) -> tuple[pa.Array, pa.Array]:
    normal = _by_script(trimmed, pc.ascii_lower, _normal_email)
    return normal, _by_script(normal, _are_plain_ascii_emails, _is_plain_email, pa.bool_())


def _normal_email(text: str) -> str:
    normal = unicodedata.normalize("NFC", text.lower())
    local, at, domain = normal.rpartition("@")
    return normal if domain.isascii() else f"{local}{at}{_ascii_domain(domain)}"


@lru_cache(maxsize=10_000)
def _ascii_domain(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        return domain


def _hashed(trimmed: pa.Array) -> tuple[pa.Array, pa.Array]:
    # No lower-casing beyond ASCII: it could turn a character such as K (the Kelvin sign) into an ASCII letter.
    normal = pc.ascii_lower(trimmed)
    return normal, pc.match_substring_regex(normal, _HEX_PATTERN)


_NORMALISERS: dict[MatchingId, Callable[[pa.Array], tuple[pa.Array, pa.Array]]] = {
    MatchingId.STRING: _string,
    MatchingId.EMAIL: _email,
    MatchingId.HASHED_EMAIL: _hashed,
    MatchingId.HASHED_PHONE_NUMBER: _hashed,
}


def _are_plain_ascii_emails(array: pa.Array) -> pa.Array:
    tests = [
        pc.match_substring_regex(array, rf"\A{_EMAIL}\z"),
        pc.match_substring_regex(array, rf"{_LAST_LABEL}\z"),
        pc.invert(pc.match_substring_regex(array, rf"{_DIGITS_LAST}\z")),
        pc.less_equal(pc.binary_length(array), _MAX_EMAIL_CHARACTERS),
        pc.less_equal(pc.find_substring(array, "@"), _MAX_LOCAL_CHARACTERS),
    ]
    result = tests[0]
    for test in tests[1:]:
        result = pc.and_(result, test)
    return result


def _is_plain_email(text: str) -> bool:
    return (
        re.fullmatch(_EMAIL, text) is not None
        and re.search(rf"{_LAST_LABEL}\Z", text) is not None
        and re.search(rf"{_DIGITS_LAST}\Z", text) is None
        and len(text) <= _MAX_EMAIL_CHARACTERS
        and text.index("@") <= _MAX_LOCAL_CHARACTERS
    )


def _by_script(
    array: pa.Array,
    ascii_batch: Callable[[pa.Array], pa.Array],
    one_other: Callable[[str], str | bool],
    type_: pa.DataType | None = None,
) -> pa.Array:
    """Process an array without nulls: its ASCII texts as one batch, all others one by one."""
    is_ascii = pc.string_is_ascii(array)
    if pc.all(is_ascii, min_count=0).as_py():
        return ascii_batch(array)
    others = [one_other(text) for text in array.filter(pc.invert(is_ascii)).to_pylist()]
    result = ascii_batch(pc.if_else(is_ascii, array, ""))
    return pc.replace_with_mask(result, pc.invert(is_ascii), pa.array(others, type_ or pa.string()))


def _mask(array: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.bool_)
