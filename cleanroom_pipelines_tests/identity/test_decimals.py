"""Whole numbers stored as decimals.

Contract: `41791234567.0` is `41791234567` where every id of the column is a whole number; beside other ids the
caller can recognise it. A phone number judged alone never loses its point and becomes another number.
"""

import pyarrow as pa

from cleanroom_pipelines.identity import judge_ids
from cleanroom_pipelines.identity.decimals import are_whole_numbers, with_tail, without_tail
from cleanroom_pipelines.terms import MatchingId

from ..offenders import offenders


def column(*ids: str | None) -> pa.Array:
    return pa.array(ids, pa.string())


def test_which_ids_have_a_tail() -> None:
    ids = column(
        "1.0", " 12.000 ", "-7.0", "1.", ".0", "1.5", "1.0.0", "v1.0", "+1.0", "1e5", "", None, "10", "٣.0"
    )
    assert with_tail(ids).tolist() == [True] * 3 + [False] * 11
    assert without_tail(ids).to_pylist()[:4] == ["1", " 12 ", "-7", "1."]
    assert without_tail(ids).to_pylist()[4:] == ids.to_pylist()[4:]


def test_which_columns_are_whole_numbers() -> None:
    columns = [
        (True, [["1.0", "2", None], [" 3.00 ", "-4"], ["", "nan", "<NA>"]]),
        (True, [[]]),
        (False, [["1.0", "2.0"], ["abc"]]),
        (False, [["1.0", "1.5"]]),
        (False, [["1.0", "+41 79 123 45 67"]]),
        (False, [["1.0", "1e5"]]),
    ]

    def check(whole: bool, batches: list[list[str | None]]) -> None:
        assert are_whole_numbers(column(*ids) for ids in batches) is whole

    assert offenders(columns, check) == []


def test_a_phone_number_never_becomes_another_one() -> None:
    decimals = column("41791234567.0", "4179123456.7", "4179123456.70", "41791234567.000")
    assert not judge_ids(MatchingId.PHONE_NUMBER, decimals).valid.any()
    judged = judge_ids(MatchingId.PHONE_NUMBER, column("41.79.123.45.67", "+41.791234567"))
    assert judged.normal.to_pylist() == ["+41791234567", "+41791234567"]
    assert judge_ids(MatchingId.PHONE_NUMBER, without_tail(column("41791234567.0"))).valid.all()
