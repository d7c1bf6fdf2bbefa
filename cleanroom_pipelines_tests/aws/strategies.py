"""Strategies for everything that botocore's model allows, for property tests of the API."""

import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import strategies as st

_TEXT = st.characters(codec="utf-8", exclude_characters="\0")
_NAME_TEXT = st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters="\ufffe\uffff") | st.just("\t")
_STRINGS = {
    # the two patterns of UTF-16, which Python cannot draw from, and a text that is seldom drawn by chance
    "NameString": st.text(_NAME_TEXT, min_size=1, max_size=63).filter(lambda text: bool(text.strip(" \t"))),
    "ResourceDescription": st.text(_NAME_TEXT | st.sampled_from("\r\n"), max_size=255),
    "Hash": st.text("0123456789abcdef", min_size=64, max_size=128),
    "TagKey": st.text(_TEXT, min_size=1, max_size=128).filter(lambda text: text[:4].lower() != "aws:"),
}


@cache  # what is drawn from a pattern takes long to make
def inputs(shape: Shape) -> st.SearchStrategy[Any]:
    """Generate values that a client may send."""
    return _values(shape, st.datetimes(_year(1000), _year(9000), timezones=st.just(UTC)))


@cache
def outputs(shape: Shape) -> st.SearchStrategy[Any]:
    """Generate values that an operation may return; timestamps have milliseconds, as written."""
    times = st.datetimes(_year(1000), _year(9000), timezones=st.just(UTC))
    return _values(shape, times.map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)))


def _year(year: int) -> datetime:
    return datetime(year, 1, 1)  # noqa: DTZ001, hypothesis wants its bounds naive


def _values(shape: Shape, times: st.SearchStrategy[datetime]) -> st.SearchStrategy[Any]:
    largest = shape.metadata.get("max", 3)
    if isinstance(shape, StructureShape):
        return _structures(shape, times)
    if isinstance(shape, ListShape):
        # a client sends nothing for an empty list of the query
        smallest = 1 if shape.name == "TagKeys" else shape.metadata.get("min", 0)
        return st.lists(_values(shape.member, times), min_size=smallest, max_size=min(largest, 3))
    if isinstance(shape, MapShape):
        return st.dictionaries(_values(shape.key, times), _values(shape.value, times), max_size=3)
    return {
        "string": _strings,
        "integer": lambda shape: st.integers(shape.metadata["min"], shape.metadata["max"]),
        # relevance runs from -1 to 1 here
        "double": lambda shape: st.floats(-1 if "Score" in shape.name else 0, 1),
        "boolean": lambda _: st.booleans(),
        "timestamp": lambda _: times,
    }[shape.type_name](shape)


def _structures(shape: StructureShape, times: st.SearchStrategy[datetime]) -> st.SearchStrategy[dict[str, Any]]:
    members = {name: _values(member, times) for name, member in shape.members.items()}
    if shape.is_tagged_union:
        return st.one_of([member.map(lambda value, n=name: {n: value}) for name, member in members.items()])
    required = {name: members.pop(name) for name in shape.required_members}
    return st.fixed_dictionaries(required, optional=members)


def _strings(shape: Shape) -> st.SearchStrategy[str]:
    smallest, largest = shape.metadata.get("min", 0), shape.metadata.get("max", 100)
    if shape.enum:
        return st.sampled_from(shape.enum)
    if shape.name in _STRINGS:
        return _STRINGS[shape.name]
    if "pattern" in shape.metadata:
        pattern = re.compile(shape.metadata["pattern"], re.ASCII)
        drawn = st.from_regex(pattern, fullmatch=True, alphabet=_TEXT)
        return drawn.filter(lambda text: smallest <= len(text) <= largest)
    return st.text(_TEXT, min_size=smallest, max_size=min(largest, 100))
