"""Recognising column names: an unwanted header in a data-room file, and the id column of a seed.

Lives here: the words by which exports of customer systems name the columns of a room's datasets.
Add here when an export names a column in another way; names of e-mails and phones are in `identity.names`.
Keep out: reading the rows (`room_reading`).

A first row is a header if each of its cells is such a word, in any letter case and with any punctuation: the ids
and labels of people are not. It also is one if it names an id, and its other cells look like names: the column
after `customer_no` may be a `city`, and after `user_id` it may be called anything. The words come from the names
of the datasets' columns, and from what customer systems write. A cell is never quoted in a message.
"""

import operator
import re
from collections import Counter
from collections.abc import Sequence

from cleanroom_pipelines.errors import InputError
from cleanroom_pipelines.identity.names import kind_of_name, normal_name
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads.cells import Column
from cleanroom_pipelines.uploads.roles import Role, RoomRole

# The names of an embedding's numbers, including those that pandas gives: e0, dim_1, 2.
_NAME = re.compile(r"[^\W\d_](?:[\w .:/()-]{0,39})")
_MAX_DIGITS = 3  # of a name; ids have more
_NUMBER_NAME = re.compile(r"(?:e|d|x|v|f|dim|emb|embedding|feature|vector)?[0-9]{1,4}")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_USER_IDS = _words(
    "id uid user userid customer customerid customerno customernumber client clientid member memberid "
    "subscriberid person personid profileid account accountid contact contactid crmid externalid "
    "externaluserid visitorid householdid publisherid publisheruserid"
)
_OTHER_MATCHING_IDS = _words("matchingid matchid hash hashed sha256 maid idfa gaid aaid adid deviceid")
# Words that are hardly ids themselves.
_CERTAIN_IDS = frozenset(word for word in _USER_IDS | {"matchingid"} if word.endswith("id") and len(word) > 3)
_LABELS = _words(
    "audience audiencetype audiencename type segment segmentid segmentname segments interest interests "
    "category topic attribute label tag list listname group groupname seed seedtype"
)
_WORDS: dict[Role | RoomRole, frozenset[str]] = {
    Role.USER_ID: _USER_IDS,
    RoomRole.MATCHING_ID: _USER_IDS | _OTHER_MATCHING_IDS,
    RoomRole.LABEL: _LABELS,
    RoomRole.SCOPE: frozenset({"scope"}),
    RoomRole.AGE: _words("age agegroup agebracket agerange"),
    RoomRole.GENDER: _words("gender sex"),
}
_KINDS_IN_WORDS = {
    MatchingId.STRING: "user ids",
    MatchingId.EMAIL: "e-mail addresses",
    MatchingId.HASHED_EMAIL: "hashed e-mail addresses",
    MatchingId.PHONE_NUMBER: "phone numbers",
    MatchingId.HASHED_PHONE_NUMBER: "hashed phone numbers",
}
_ID_ROLES = (Role.USER_ID, RoomRole.MATCHING_ID)
_ALL_WORDS = frozenset[str]().union(*_WORDS.values())


def is_header(columns: Sequence[Column], row: Sequence[object]) -> bool:
    """Whether the first row of a file contains column names.

    Args:
        columns: The columns of the dataset.
        row: The cells of the first row.

    Raises:
        InputError: It names the columns in an order other than the dataset's, names ids in the place of labels,
            or the first column is an index.
    """
    words = [normal_name(str(cell or "")) for cell in row]
    if not row[0] and any(word in _CERTAIN_IDS for word in words):
        raise InputError(
            "The first column has no name; it seems to contain row numbers.", remedy="Remove it.", problem="type"
        )
    named = [
        _NUMBER_NAME.fullmatch(word) is not None
        if column.role is RoomRole.NUMBER
        else word in _ALL_WORDS or kind_of_name(word) is not None
        for column, word in zip(columns, words, strict=True)
    ]
    of_ids = [column.role in _ID_ROLES for column in columns]
    if not any(is_id and word in _CERTAIN_IDS for is_id, word in zip(of_ids, words, strict=True)):
        others = [str(cell or "") for cell, is_known in zip(row, named, strict=True) if not is_known]
        names_id = all(named) or any(map(operator.and_, of_ids, named))
        if not names_id or not all(is_name(cell) and not re.search(r"\d", cell) for cell in others):
            return False
    if len(columns) == 2 and not _fit(columns, words) and _fit(columns, words[::-1]):
        raise InputError(
            "The columns in the header are not in the order that this dataset needs.",
            remedy=f"Put {columns[0].name} before {columns[1].name}.",
            problem="type",
        )
    for column, word in zip(columns, words, strict=True):
        if column.role is RoomRole.LABEL and (word in _CERTAIN_IDS or kind_of_name(word)):
            raise InputError(
                f"The header names a column of ids, but this dataset needs {column.name}.",
                remedy=f"Provide the {column.name} of each row instead.",
                problem="type",
            )
    return True


def kinds_in_words(names: Sequence[str]) -> str:
    """Describe a header by the kinds of ids that it names, never by its names; empty if it names no ids."""
    kinds = Counter(kind_of_name(name) or (MatchingId.STRING if names_user_ids(name) else None) for name in names)
    if not any(kinds):
        return ""
    parts = [f"{n} of {_KINDS_IN_WORDS[kind]}" for kind, n in kinds.items() if kind]
    if n_others := kinds[None]:
        parts.append(f"{n_others} other{'s' if n_others > 1 else ''}")
    return f"{', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"


def names_user_ids(text: str) -> bool:
    """Whether a column name, such as `customer_id`, is usual for a person's id in customer systems."""
    return normal_name(text) in _USER_IDS


def is_name(text: str) -> bool:
    """Whether a cell or a Parquet name looks like a column name, and not like an id or an e-mail address."""
    return _NAME.fullmatch(text) is not None and sum(map(str.isdigit, text)) <= _MAX_DIGITS


def _fit(columns: Sequence[Column], words: Sequence[str]) -> bool:
    return all(
        word in _WORDS[column.role] or (column.role is RoomRole.MATCHING_ID and kind_of_name(word) is not None)
        for column, word in zip(columns, words, strict=True)
    )
