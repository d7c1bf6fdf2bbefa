"""Why ids do not match.

Contract: a sentence with the number of ids, and the likely cause; never an id. Of ids of two parties only the form
of one party's own is described.
"""

import pyarrow as pa
import pytest

from cleanroom_pipelines.engine import EngineSettings, open_engine
from cleanroom_pipelines.uploads.likely_causes import form_of, no_match

N = 40
PLAIN = [f"user{n}" for n in range(N)]
NUMBERS = [f"{n:05d}" for n in range(1, N + 1)]
HASHES = [f"{n:064x}" for n in range(N)]


def ask(ids: list[str], others: list[str], **words: str) -> str:
    with open_engine(EngineSettings(memory_bytes=256 << 20, threads=1)) as engine:
        engine.register("mine", pa.table({"id": pa.array(ids, pa.string())}))
        engine.register("theirs", pa.table({"id": pa.array(others, pa.string())}))
        return no_match(engine, "SELECT id FROM mine", "SELECT id FROM theirs", **words)


@pytest.mark.parametrize(
    ("ids", "others", "cause"),
    [
        (PLAIN, [text.upper() for text in PLAIN], "They would match without regard to letter case."),
        (PLAIN, [f" {text}" for text in PLAIN], "They would match without the spaces around them."),
        (NUMBERS, [text.lstrip("0") for text in NUMBERS], "They would match with leading zeros removed."),
        (NUMBERS[:3], [f"{text}.0" for text in NUMBERS], "They would match without the decimal tail .0."),
        (
            ["A-b", "C-d", "x"],
            ["ab", "cd"],
            "2 of them would match without hyphens.",
        ),
        (PLAIN, HASHES, "One side looks hashed (64 hex digits), the other does not."),
        (HASHES, PLAIN, "One side looks hashed (64 hex digits), the other does not."),
        (PLAIN, NUMBERS, "The two tables seem to hold different kinds of ids."),
    ],
)
def test_causes(ids: list[str], others: list[str], cause: str) -> None:
    assert ask([*ids, *ids], others) == f"None of the {len(ids)} ids match. {cause}"


def test_words_for_the_ids_and_the_other_table() -> None:
    sentence = ask(PLAIN, NUMBERS, what="users", where="are in the matching table")
    assert sentence.startswith("None of the 40 users are in the matching table. ")


@pytest.mark.parametrize(
    ("ids", "form"),
    [
        (HASHES, "All of the ids look like SHA-256 hashes (64 hex digits)."),
        ([f"{text}@x.ch" for text in PLAIN], "All of the ids look like e-mail addresses."),
        (["+41 79 123 45 67"] * 3, "All of the ids look like phone numbers."),
        ([*NUMBERS, "x"], "Most of the ids are numbers with leading zeros."),
        (
            [f"{n}.0" for n in range(9)],
            "All of the ids are numbers with the decimal tail .0; save the column as text.",
        ),
        ([f"{text} " for text in PLAIN], "All of the ids have spaces around them."),
        ([f"'{text}'" for text in PLAIN], "All of the ids are in quotation marks."),
        (PLAIN, None),
        ([], None),
    ],
)
def test_the_form_of_ids(ids: list[str], form: str | None) -> None:
    with open_engine(EngineSettings(memory_bytes=256 << 20, threads=1)) as engine:
        engine.register("mine", pa.table({"id": pa.array(ids, pa.string())}))
        assert form_of(engine, "SELECT id FROM mine") == form
