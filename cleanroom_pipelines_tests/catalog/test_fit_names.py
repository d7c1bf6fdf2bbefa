"""Contract: names, descriptions, tags, e-mail addresses, roles and file labels look like what they are: composed
(NFC), without control and bidirectional characters. Input from people is rejected otherwise; names from a file
system are corrected. One place decides both."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.catalog import Catalog
from cleanroom_pipelines.catalog.names import (
    as_label,
    check_description,
    check_label,
    check_name,
    check_tags,
    is_fit_to_show,
)
from cleanroom_pipelines.catalog.parties import check_new_account, check_new_collaboration
from cleanroom_pipelines.catalog.room_specs import check_email
from cleanroom_pipelines.errors import UsageError

UNFIT = {
    "right to left override": "report\u202efdp.exe",
    "isolate": "a\u2066b\u2069",
    "arabic letter mark": "a\u061cb",
    "left to right mark": "a\u200eb",
    "delete": "a\x7fb",
    "C1": "a\x9bb",
    "escape": "a\x1b[31mb",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "decomposed": "Cafe\u0301",
    "another sign for the same letter": "\u1f71",
}


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
def test_every_display_text_is_checked(text: str) -> None:
    for check in (
        check_name,
        check_description,
        check_new_account,
        lambda text: check_tags({text: ""}),
        lambda text: check_tags({"key": text}),
        lambda text: check_label("role", text, 255),
        lambda text: check_email(f"{text.lower()}@shop.example"),
        lambda text: check_new_collaboration(text, ["111111111111", "222222222222"]),
    ):
        with pytest.raises(UsageError) as refused:
            check(text)
        assert text not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "Café",
        "日本",
        "🛒 family 👨\u200d👩\u200d👧",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "Ünïcode",
        "שלום",
        "it's",
        "Å",
    ],
)
def test_names_in_every_script_are_valid(text: str) -> None:
    check_name(text)
    check_description(f"{text}\n\t{text}\r\n")
    assert as_label(text) == text


@given(st.text())
def test_label_is_always_valid_and_idempotent(text: str) -> None:
    label = as_label(text)
    assert is_fit_to_show(label)
    assert as_label(label) == label
    if is_fit_to_show(text):
        assert label == text
    assert len(label) <= len(unicodedata.normalize("NFC", text))


def test_file_name_is_normalised(catalog: Catalog) -> None:
    catalog.users.create_user("data@publisher.example")
    upload = catalog.rooms.add_upload(
        "00ff",
        "data@publisher.example",
        "Cafe\u0301\u202e.csv",
        n_bytes=1,
        digest="d",
        matching_id=None,
        location="l",
    )
    assert upload.name == "Café_.csv"
