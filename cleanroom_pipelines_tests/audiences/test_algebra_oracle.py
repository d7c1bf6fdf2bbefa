"""Contract: the compiled query finds the users that the definition describes.

Each operand of a rule is filtered first, strictly from left to right; CONTAINS_NONE keeps users whose attribute is
missing; only relevant users are found. Random bases and definitions (nested, with nulls, duplicates, quotes, emoji
and case variants) are compared with a plain evaluator.
"""

import hashlib
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.canonical import canonical, lookalikes_of
from cleanroom_pipelines.audiences.definitions import (
    AttributeFilter,
    BaseRef,
    Combinator,
    CombineOperator,
    Definition,
    FileRef,
    FilterOperator,
    Filters,
    MatchOperator,
    Remarketing,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.evaluating import count, evaluate, evaluate_counted, evaluate_files
from cleanroom_pipelines.audiences.relations import open_room_relations
from cleanroom_pipelines.engine import open_engine, stable_hash
from cleanroom_pipelines.errors import InputError

from ..examples import one_in
from .definition_worlds import USERS, Room, rooms, source_of, users_of


def lookalike_files(definition: Definition, room: Room, folder: Path) -> dict[str, Path]:
    files = {}
    for key, lookalike in lookalikes_of(definition, room.resolve).items():
        files[key] = folder / f"{stable_hash(key)}.parquet"
        users = sorted(room.users_of_lookalike(lookalike))
        pq.write_table(pa.table({"user_id": pa.array(users, pa.string())}), files[key])
    return files


@one_in(4)
@given(rooms)
def test_a_room_finds_the_users_the_definition_describes(room: Room) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, seeds = room.write(folder)
        counting = room.counting()
        with open_engine(paths=[folder]) as engine:
            relations = open_room_relations(engine, base, seeds)
            assert relations.audience_types == tuple(sorted({type_ for _, type_ in room.seeds}))
            found: dict[str, frozenset[str]] = {}
            for definition in room.audiences.values():
                files = lookalike_files(definition, room, folder)
                out = folder / "out.parquet"
                n_users = evaluate(engine, definition, room.resolve, files, out)
                users = pq.read_table(out)["user_id"].to_pylist()
                assert users == sorted(users_of(definition, room), key=lambda user: (stable_hash(user), user))
                assert n_users == len(users)
                # Of a count, an id stands for one user.
                counted = users_of(definition, counting)
                assert count(engine, definition, room.resolve, files) == len(counted)
                assert evaluate_counted(engine, definition, room.resolve, files, out) == len(counted)
                assert pq.read_table(out)["user_id"].to_pylist() == sorted(counted)
                # one question, one answer, however it is asked
                question = canonical(definition, room.resolve)
                assert found.setdefault(question, frozenset(users)) == frozenset(users)


def no_audiences(id_: str) -> Definition:
    raise AssertionError("nothing is referred to")


PLAIN = "customer-1"
# Another way to write an id, and the id that it must meet.
ODD = [
    (" customer-1", PLAIN),
    ("customer-1\t", PLAIN),
    ("customer-1\n", PLAIN),
    ("\u200bcustomer-1", PLAIN),
    ("customer-1\u00a0", PLAIN),
    ("41791234567.0", "41791234567"),
    (" 41791234567.00", "41791234567"),
]
PLACEHOLDERS = [
    "NULL",
    "n/a ",
    "\\N",
    "00000000-0000-0000-0000-000000000000",
    hashlib.sha256(b"").hexdigest().upper(),
    hashlib.sha256(b"nan").hexdigest().title(),
]


def combined(folder: Path, operator: CombineOperator, *lists: list[str]) -> set[str]:
    refs = [FileRef(str(folder / f"{number}.parquet"), "id") for number in range(len(lists))]
    for ref, ids in zip(refs, lists, strict=True):
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), ref.path)
    combinators = tuple(Combinator(operator, ref) for ref in refs[1:])
    evaluate_files(RuleBased(refs[0], None, combinators), no_audiences, folder / "out.parquet")
    return set(pq.read_table(folder / "out.parquet")["user_id"].to_pylist())


def test_ids_meet_however_they_are_written_and_in_whichever_list(tmp_path: Path) -> None:
    # Single ids too, whose statistics in the files already tell the lists apart.
    for odd, plain in ODD:
        other = f"9{plain}" if plain.isdigit() else f"x{plain}"
        for one, two in ((odd, plain), (plain, odd)):
            assert combined(tmp_path, CombineOperator.INTERSECT, [one], [two]) == {plain}
            assert combined(tmp_path, CombineOperator.DIFF, [one], [two]) == set()
            assert combined(tmp_path, CombineOperator.DIFF, [one, other], [other], [two]) == set()
            assert combined(tmp_path, CombineOperator.UNION, [one, other], [two]) == {plain, other}


def test_a_union_reads_integers_and_odd_text_alike(tmp_path: Path) -> None:
    # The ids of integers need no check, so they must not exempt those of text.
    integers, text = (
        FileRef(str(tmp_path / "integers.parquet"), "id"),
        FileRef(str(tmp_path / "text.parquet"), "id"),
    )
    pq.write_table(pa.table({"id": [41791234567, 7]}), integers.path)
    pq.write_table(pa.table({"id": ["41791234567 ", PLAIN]}), text.path)
    for first, second in ((integers, text), (text, integers)):
        rule = RuleBased(first, None, (Combinator(CombineOperator.UNION, second),))
        evaluate_files(rule, no_audiences, tmp_path / "out.parquet")
        found = pq.read_table(tmp_path / "out.parquet")["user_id"].to_pylist()
        assert sorted(found) == ["41791234567", "7", PLAIN]


def test_placeholders_are_in_no_result(tmp_path: Path) -> None:
    for placeholder in PLACEHOLDERS:
        lists = [placeholder, PLAIN], [PLAIN, placeholder.lower().strip()]
        assert combined(tmp_path, CombineOperator.UNION, *lists) == {PLAIN}
        assert combined(tmp_path, CombineOperator.INTERSECT, *lists) == {PLAIN}


@pytest.mark.parametrize("position", range(3))
def test_decimals_among_other_ids_are_rejected_in_any_list(tmp_path: Path, position: int) -> None:
    lists = [["41791234567", PLAIN], ["41791234567"], ["41791234567", PLAIN]]
    lists[position] = ["41791234567.0", PLAIN]
    for operator in CombineOperator:
        with pytest.raises(InputError, match="a decimal point that other ids lack"):
            combined(tmp_path, operator, *lists)


def test_a_list_that_is_damaged_behind_its_header_is_rejected(tmp_path: Path) -> None:
    ids = [f"customer-{number}" for number in range(20_000)]
    pq.write_table(pa.table({"id": ids}), tmp_path / "damaged.parquet", use_dictionary=False)
    damaged = bytearray((tmp_path / "damaged.parquet").read_bytes())
    damaged[1000:3000] = bytes(2000)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    definition = RuleBased(FileRef(str(tmp_path / "damaged.parquet"), "id"), None, ())
    with pytest.raises(InputError, match="could not be read to its end"):
        evaluate_files(definition, no_audiences, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


lists_of_ids = st.lists(st.none() | st.sampled_from(USERS), max_size=12)


@one_in(4)
@given(st.lists(lists_of_ids, min_size=1, max_size=5), st.lists(st.sampled_from(CombineOperator), min_size=4))
def test_lists_in_files_may_repeat_ids_and_miss_some(
    lists: list[list[str | None]], operators: list[CombineOperator]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        refs = [FileRef(str(folder / f"{number}.parquet"), "id") for number in range(len(lists))]
        for ref, ids in zip(refs, lists, strict=True):
            pq.write_table(pa.table({"other": pa.nulls(len(ids)), "id": pa.array(ids, pa.string())}), ref.path)
        expected: set[str | None] = set(lists[0])
        for ids, operator in zip(lists[1:], operators, strict=False):
            expected = {
                CombineOperator.UNION: expected | set(ids),
                CombineOperator.INTERSECT: expected & set(ids),
                CombineOperator.DIFF: expected - set(ids),
            }[operator]
        expected -= {None}
        combinators = tuple(Combinator(operator, ref) for operator, ref in zip(operators, refs[1:], strict=False))
        out = folder / "out.parquet"
        n_ids = evaluate_files(RuleBased(refs[0], None, combinators), no_audiences, out)
        found = pq.read_table(out)["user_id"].to_pylist()
        assert set(found) == expected
        assert n_ids == len(found) == len(expected)


def test_a_room_without_segments_and_seeds_can_be_queried(tmp_path: Path) -> None:
    room = Room(frozenset(USERS[:5]), {}, {}, frozenset(), frozenset(), frozenset(), {}, (frozenset(),))
    base, _ = room.write(tmp_path)
    (base / "segments.parquet").unlink()
    with open_engine(paths=[base]) as engine:
        relations = open_room_relations(engine, base)
        assert relations.audience_types == ()
        assert count(engine, RuleBased(BaseRef()), room.resolve, {}) == 5
        assert count(engine, Remarketing("Buyers"), room.resolve, {}) == 0
        assert source_of(SeedRef("Buyers"), room) == frozenset()
        no_segments = Filters(MatchOperator.MATCH_ALL, (AttributeFilter("segments", FilterOperator.EMPTY),))
        assert count(engine, RuleBased(BaseRef(), no_segments), room.resolve, {}) == 5
