"""Column names that mean ids, as in exports of customer systems and templates of ad platforms.

Lives here: which names mean which kind of id.
Add here when an export names such a column in another way.
Keep out: other columns (`uploads.room_headers`), and reading files.
"""

import re

from cleanroom_pipelines.terms import MatchingId

_PUNCTUATION = re.compile(r"[\W_]+")
_NAMES = {
    MatchingId.EMAIL: "email emailaddress mail mailaddress",
    MatchingId.PHONE_NUMBER: "phone phonenumber phoneno telephone telephonenumber tel mobile mobilenumber "
    "mobilephone cell cellphone msisdn",
    MatchingId.HASHED_EMAIL: "hashedemail hashedemailaddress emailhash emailhashed emailsha256 sha256email hem",
    MatchingId.HASHED_PHONE_NUMBER: "hashedphone hashedphonenumber phonehash phonehashed phonesha256 sha256phone",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}


def normal_name(text: str) -> str:
    """Return a column name in lower case, without spaces and punctuation."""
    return _PUNCTUATION.sub("", text.lower())


def kind_of_name(text: str) -> MatchingId | None:
    """Return the kind of id that a column name stands for; a repeated name may end in a number: `Email 2`."""
    name = normal_name(text)
    return _KINDS.get(name) or _KINDS.get(name.rstrip("0123456789"))
