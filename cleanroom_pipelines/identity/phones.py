r"""Phone numbers: validity and E.164 form, in Arrow batches.

Lives here: parsing numbers as people write them, and the numbering plans of the `phonenumbers` library as patterns
over Arrow arrays.
Add here when another notation for numbers is accepted.
Keep out: everything that is not a phone number.

A number needs its country calling code: `+41 79 123 45 67`, `0041…` or `41…`. It may contain spaces, hyphens,
dots, slashes and brackets anywhere, digits of any script, and a national prefix such as `(0)` after the calling
code. A national number (`079 123 45 67`) is invalid because its country is unknown. Validity follows
`phonenumbers.is_valid_number`, so numbers in unassigned ranges are invalid. Letters and extensions are not
accepted.

Parsing one number with the library takes about 150 microseconds. Its rules for a number after `+` are: remove the
calling code; remove the national prefix if the rest is still as good a number of that country; then the number
must match the length and pattern of one of the types of one of the regions of that calling code. This module
applies these rules to all numbers of a calling code at once. The few numbers that a country rewrites (`9\1` for
Argentine mobiles written with 15) are passed to the library. Tests compare both implementations.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_E164 = r"\A\+[1-9][0-9]{2,18}\z"
_WRITTEN = r"\A(?:\+|00)?[1-9][0-9]{2,18}\z"
_SEPARATORS = r"[ \t\-./()]+"
_MORE_SEPARATORS = re.compile(r"[\s\-./()\u00ad\u200b-\u200f\u2010-\u2015\u202a-\u202e\u2060\u2212\ufeff]+")
# A number that went through a decimal column: its fraction is not a part of the number.
_FRACTION = r"\A\+?[0-9]{6,}\.(?:0+|[0-9]{1,2})\z"
_N_CALLING_DIGITS = 3


def e164(numbers: pa.Array) -> pa.Array:
    """Convert phone numbers to E.164 form.

    Args:
        numbers: Trimmed strings without nulls.

    Returns:
        `+`, calling code and national number; null for an invalid number.
    """
    digits = _digits(numbers)
    return pc.binary_join_element_wise(pa.scalar("+"), _valid_digits(digits), "")


def _digits(numbers: pa.Array) -> pa.Array:
    """Return calling code and national number in ASCII digits; null for texts that do not look like a number."""
    is_clean = pc.match_substring_regex(numbers, _E164)
    if not pc.all(is_clean, min_count=0).as_py():
        others = pc.invert(is_clean)
        cleaned = _cleaned(numbers.filter(others))
        numbers = pc.replace_with_mask(numbers, others, cleaned)
    return pc.utf8_ltrim(numbers, characters="+")


def _cleaned(numbers: pa.Array) -> pa.Array:
    others = pc.invert(pc.string_is_ascii(numbers))
    if pc.any(others, min_count=0).as_py():
        plain = [_in_ascii(text) for text in numbers.filter(others).to_pylist()]
        numbers = pc.replace_with_mask(numbers, others, pa.array(plain, pa.string()))
    fraction = pc.match_substring_regex(numbers, _FRACTION)
    numbers = pc.replace_substring_regex(numbers, _SEPARATORS, "")
    written = pc.and_not(pc.match_substring_regex(numbers, _WRITTEN), fraction)
    # In texts that match, leading zeros can only be an international prefix.
    return pc.if_else(written, pc.utf8_ltrim(numbers, characters="0"), pa.scalar(None, pa.string()))


def _in_ascii(text: str) -> str:
    text = _MORE_SEPARATORS.sub("", text).replace("\uff0b", "+")
    return "".join(character if character == "+" else _digit(character) for character in text)


def _digit(character: str) -> str:
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


def _valid_digits(digits: pa.Array) -> pa.Array:
    if not len(digits):
        return digits
    start = pc.fill_null(pc.utf8_slice_codeunits(digits, 0, _N_CALLING_DIGITS), "0").cast(pa.int16())
    codes = _calling_codes()[start.to_numpy()]
    order = np.argsort(codes, kind="stable")
    present, firsts = np.unique(codes[order], return_index=True)
    parts, places = [], []
    for code, rows in zip(present, np.split(order, firsts[1:]), strict=True):
        if code:
            plan = _plan(int(code))
            parts.append(_numbers_of(plan, digits.take(pa.array(rows))))
        else:
            parts.append(pa.nulls(len(rows), pa.string()))
        places.append(rows)
    back = np.empty(len(digits), np.int64)
    back[np.concatenate(places)] = np.arange(len(digits))
    return pa.concat_arrays(parts).take(pa.array(back))


# --- The numbers of one calling code ---


@dataclass(frozen=True)
class _Region:
    """A region's patterns of valid numbers, by length."""

    leading_digits: str | None
    by_length: dict[int, tuple[str, str]]


@dataclass(frozen=True)
class _Plan:
    """The numbering plan of one calling code.

    Args:
        code: The calling code.
        regions: The regions that share it, in the library's order.
        prefix: The pattern of the national prefix, which is removed from a national number.
        rewrites: Whether some numbers with that prefix are rewritten.
        viable: The pattern of all numbers of the main region.
        lengths: The possible lengths of these, ascending.
        local_lengths: The lengths that can only be dialled locally, without an area code.
    """

    code: str
    regions: tuple[_Region, ...]
    prefix: str | None
    rewrites: bool
    viable: str
    lengths: tuple[int, ...]
    local_lengths: tuple[int, ...]


def _numbers_of(plan: _Plan, digits: pa.Array) -> pa.Array:
    numbers = pc.utf8_slice_codeunits(digits, len(plan.code))
    numbers, rewritten = _without_prefix(plan, numbers)
    valid = _are_valid(plan, numbers)
    e164_digits = pc.binary_join_element_wise(pa.scalar(plan.code), numbers, "")
    result = pc.if_else(pa.array(valid), e164_digits, pa.scalar(None, pa.string()))
    if rewritten.any():
        by_library = _by_library(digits.filter(pa.array(rewritten)))
        result = pc.replace_with_mask(result, pa.array(rewritten), by_library)
    return result


def _without_prefix(plan: _Plan, numbers: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Remove the national prefix as `phonenumbers.parse` does; also return which numbers it must parse itself."""
    nothing = np.zeros(len(numbers), np.bool_)
    if plan.prefix is None:
        return numbers, nothing
    rest = pc.replace_substring_regex(numbers, rf"\A(?:{plan.prefix})", "", max_replacements=1)
    touched = _mask(pc.not_equal(rest, numbers))
    if not touched.any():
        return numbers, nothing
    if plan.rewrites:
        return numbers, touched
    spoilt = pc.and_(_matches(numbers, plan.viable), pc.invert(_matches(rest, plan.viable)))
    n_digits = _mask(pc.binary_length(rest), np.int64)
    possible = (np.isin(n_digits, plan.lengths) | (n_digits > plan.lengths[-1])) & ~np.isin(
        n_digits, plan.local_lengths
    )
    return pc.if_else(pa.array(touched & ~_mask(spoilt) & possible), rest, numbers), nothing


def _are_valid(plan: _Plan, numbers: pa.Array) -> npt.NDArray[np.bool_]:
    """Return whether each number is valid in its region, the first one whose leading digits or patterns match."""
    valid = np.zeros(len(numbers), np.bool_)
    open_rows = np.arange(len(numbers))
    for region in plan.regions:
        if not len(open_rows):
            break
        here = numbers if len(open_rows) == len(numbers) else numbers.take(pa.array(open_rows))
        if region.leading_digits is None:
            belongs = fits = _fit(region, here)
        else:
            belongs = _mask(pc.match_substring_regex(here, rf"\A(?:{region.leading_digits})"))
            fits = belongs.copy()
            fits[belongs] = _fit(region, here.filter(pa.array(belongs)))
        valid[open_rows[fits]] = True
        open_rows = open_rows[~belongs]
    return valid


def _fit(region: _Region, numbers: pa.Array) -> npt.NDArray[np.bool_]:
    fits = np.zeros(len(numbers), np.bool_)
    n_digits = _mask(pc.binary_length(numbers), np.int64)
    for length in np.unique(n_digits):
        patterns = region.by_length.get(int(length))
        if patterns is None:
            continue
        rows = np.flatnonzero(n_digits == length)
        of_length = numbers if len(rows) == len(numbers) else numbers.take(pa.array(rows))
        fits[rows] = _mask(pc.and_(*(_matches(of_length, pattern) for pattern in patterns)))
    return fits


def _by_library(digits: pa.Array) -> pa.Array:
    coded = digits.dictionary_encode()
    forms = pa.array([_library_digits(text) for text in coded.dictionary.to_pylist()], pa.string())
    return forms.take(coded.indices)


def _library_digits(digits: str) -> str | None:
    import phonenumbers

    try:
        number = phonenumbers.parse("+" + digits, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)).removeprefix("+")


# --- The numbering plans of the library ---


@cache
def _calling_codes() -> npt.NDArray[np.int64]:
    """Return the table from a number's first three digits to its calling code; 0 where no code matches."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

    codes = np.zeros(10**_N_CALLING_DIGITS, np.int64)
    for start in range(len(codes)):
        text = f"{start:0{_N_CALLING_DIGITS}}"
        beginnings = (int(text[:n]) for n in range(1, _N_CALLING_DIGITS + 1))
        codes[start] = next((code for code in beginnings if code in COUNTRY_CODE_TO_REGION_CODE), 0)
    # No code begins with 0; without this, 041 would be read as 41.
    codes[: 10 ** (_N_CALLING_DIGITS - 1)] = 0
    return codes


@cache
def _plan(code: int) -> _Plan:
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

    names = COUNTRY_CODE_TO_REGION_CODE[code]
    found: list[Any] = [PhoneMetadata.metadata_for_region_or_calling_code(code, name) for name in names]
    main = found[0]
    general = main.general_desc
    alone = len(found) == 1
    return _Plan(
        code=str(code),
        regions=tuple(_region(metadata, alone=alone) for metadata in found if metadata is not None),
        prefix=main.national_prefix_for_parsing or None,
        rewrites=bool(main.national_prefix_transform_rule),
        viable=general.national_number_pattern,
        lengths=tuple(sorted(general.possible_length)),
        local_lengths=tuple(general.possible_length_local_only),
    )


def _region(metadata: Any, *, alone: bool) -> _Region:
    types = [
        metadata.premium_rate,
        metadata.toll_free,
        metadata.shared_cost,
        metadata.voip,
        metadata.personal_number,
        metadata.pager,
        metadata.uan,
        metadata.voicemail,
        metadata.fixed_line,
        None if metadata.same_mobile_and_fixed_line_pattern else metadata.mobile,
    ]
    by_length = {}
    for length in metadata.general_desc.possible_length:
        patterns = [kind.national_number_pattern for kind in types if kind and _can_have(kind, length)]
        if patterns:
            by_length[length] = (metadata.general_desc.national_number_pattern, _any_of(patterns))
    # The leading digits choose among regions; the library ignores them if there is only one region.
    return _Region(None if alone else metadata.leading_digits, by_length)


def _can_have(kind: Any, length: int) -> bool:
    return bool(kind.national_number_pattern) and (not kind.possible_length or length in kind.possible_length)


def _any_of(patterns: Sequence[str]) -> str:
    return "|".join(f"(?:{pattern})" for pattern in dict.fromkeys(patterns))


def _matches(array: pa.Array, pattern: str) -> pa.Array:
    return pc.match_substring_regex(array, rf"\A(?:{pattern})\z")


def _mask(array: pa.Array, type_: Any = np.bool_) -> npt.NDArray[Any]:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=type_)
