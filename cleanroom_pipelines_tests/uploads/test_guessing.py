"""What a chosen file holds: which files are tables, workbooks as CSV, guesses, and files read as chosen.

Contract: the first sheet of a workbook becomes CSV with the values that Excel stored; hostile workbooks end the
process that reads them, not the caller; files of other kinds get one sentence; separator, header and kind of id
are guessed as the reader reads them; the reader takes every sample and every rewritten file; no guess and no error
has a cell.
"""

import gzip
import hashlib
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.console.pages.data import sample_rows
from cleanroom_pipelines.errors import InputError
from cleanroom_pipelines.identity import BASE_DATASETS, Dataset, InputName
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads import workbooks
from cleanroom_pipelines.uploads.guessing import Guess, guess_file, rewritten, table_chunks
from cleanroom_pipelines.uploads.room_reading import Reading, RoomUpload, read_dataset

from .workbooks import archive, workbook

M = MatchingId
SEEDS, MATCHING = Dataset.SEED_AUDIENCES, Dataset.MATCHING
CANARY = "canary@secret.example"
NAMES = [
    *(str(InputName(dataset, kind)) for dataset in (MATCHING, SEEDS) for kind in M),
    *(str(InputName(each)) for each in BASE_DATASETS if not each.has_ids),
]


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def chunks(folder: Path, content: bytes) -> bytes:
    with write(folder, content).open("rb") as stream:
        return b"".join(table_chunks(stream))


def scratch(folder: Path) -> Path:
    (folder / "scratch").mkdir()
    return folder / "scratch"


def guess(folder: Path, content: bytes | str, dataset: Dataset = SEEDS, *kinds: M) -> Guess:
    return guess_file(write(folder, content), dataset, kinds, scratch(folder))


def test_a_workbook_becomes_csv_with_stored_values(tmp_path: Path) -> None:
    rows = [
        ["email", "type"],
        ["a@b.example", 7.0],
        [("B9", "c@d.example"), 0.5],
        ["", ""],
        [4915112345678.0, '"'],
    ]
    lines = ["email,type", "a@b.example,7", "c@d.example,0.5", '4915112345678,""""', ""]
    assert chunks(tmp_path, workbook(rows)).decode().split("\n") == lines


def test_a_hostile_workbook_gets_a_sentence(tmp_path: Path) -> None:
    corners = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    for content in (workbook(cells=corners), workbook(claims=1 << 30)):
        with pytest.raises(InputError, match="too large or damaged"):
            chunks(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"%PDF-1.7\n\0", "a PDF document", id="pdf"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0", "an image", id="png"),
        pytest.param(b"\xff\xd8\xff\xe0\0", "an image", id="jpeg"),
        pytest.param(b"\n<!DOCTYPE html><p>", "a web page", id="html"),
        pytest.param(b'[{"email": 1}]', "JSON", id="json"),
        pytest.param(b"\xd0\xcf\x11\xe0\0", "old format, or has a password", id="xls"),
        pytest.param(b"Rar!\x1a\0", "an archive", id="rar"),
        pytest.param(b"\1\2\0\4", "not a table", id="binary"),
        pytest.param(archive(), "an archive or a document", id="zip"),
        pytest.param(archive("word/document.xml"), "an archive or a document", id="docx"),
        pytest.param(b"PK\x03\x04damaged", "an archive or a document", id="damaged zip"),
        pytest.param(workbook(sheets=""), "no sheet", id="no sheet"),
    ],
)
def test_files_of_other_kinds_get_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        chunks(tmp_path, content)
    assert raised.value.remedy


@pytest.mark.parametrize("content", [b"{3F2504E0},a\n", b"BMW-1,loyal\n", b"[1],a\n", zlib.compress(b"")[:2]])
def test_texts_that_begin_like_other_files_are_tables(tmp_path: Path, content: bytes) -> None:
    assert chunks(tmp_path, content) == content


HASH = hashlib.sha256(b"+12025550123").hexdigest()


@pytest.mark.parametrize(
    ("content", "kinds", "expected"),
    [
        pytest.param("a@b.example,loyal\n", (M.EMAIL,), (",", False, M.EMAIL, 2), id="plain"),
        pytest.param("E-Mail;Segment\na@b.example;x\n", (M.EMAIL,), (";", True, M.EMAIL, 2), id="header"),
        pytest.param("+12025550123\tx\n", (M.PHONE_NUMBER,), ("\t", False, M.PHONE_NUMBER, 2), id="phone"),
        pytest.param(f"{HASH}|x\n", (M.HASHED_PHONE_NUMBER,), ("|", False, M.HASHED_PHONE_NUMBER, 2), id="hash"),
        pytest.param(f"phone,type\n{HASH},x\n", tuple(M), (",", True, M.HASHED_PHONE_NUMBER, 2), id="named hash"),
        pytest.param("customer-1\ncustomer-2\n", (M.EMAIL,), (",", False, M.STRING, 1), id="own ids"),
        pytest.param(
            "sep=;\nemail;type\na@b.example;x\n", (M.EMAIL,), (";", True, M.EMAIL, 2), id="line of Excel"
        ),
        pytest.param("My customers,\nmail,x\na@b.ch,x\n", (), (",", True, M.EMAIL, 2), id="title"),
        pytest.param("email\nnonsense\n", (M.EMAIL,), (",", True, M.EMAIL, 1), id="only the name tells"),
    ],
)
def test_separator_header_and_kind_are_guessed(
    tmp_path: Path, content: str, kinds: tuple[M, ...], expected: tuple[str, bool, M, int]
) -> None:
    found = guess(tmp_path, content, SEEDS, *kinds)
    assert (found.separator, found.header, found.matching_id, len(found.columns)) == expected


CITIES = ("customer_no;age_band;city", "c-1;25-34;Bonn", "c-2;35-44;Ulm", "c-3;25-34;Trier", "c-4;65+;Bremen")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_names_of_the_persons_own_columns_are_found(tmp_path: Path, separator: str) -> None:
    """Also where no system writes them so, and where each row has another last cell."""
    content = "\n".join(CITIES).replace(";", separator)
    found = guess(tmp_path, content, Dataset.DEMOGRAPHICS)
    assert (found.separator, found.names) == (separator, ("customer_no", "age_band", "city"))
    assert found.columns == ("user_id", "age", "gender")


@pytest.mark.parametrize(
    ("dataset", "content", "expected"),
    [
        (SEEDS, "customer_no,membership tier\nc-1,gold\n", (True, ("customer_no", "membership tier"))),
        (SEEDS, "customer_no,a@b.example\n", (False, ())),
        (Dataset.DEMOGRAPHICS, "c-1,25-34,Bonn\n", (False, ())),
        (Dataset.DEMOGRAPHICS, "customer_no,25-34,Bonn\n", (False, ())),
        (Dataset.DEMOGRAPHICS, "customer_no,,city\n", (False, ())),
    ],
)
def test_a_header_names_an_id_and_has_only_names(
    tmp_path: Path, dataset: Dataset, content: str, expected: tuple[bool, tuple[str, ...]]
) -> None:
    found = guess(tmp_path, content, dataset, M.STRING)
    assert (found.header, found.names) == expected


def test_a_table_with_too_many_columns_is_not_taken_as_one_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 3 columns instead of 2"):
        guess(tmp_path, "\n".join(CITIES), SEEDS)


def test_a_name_that_may_be_an_id_is_not_shown(tmp_path: Path) -> None:
    pq.write_table(pa.table({"49 170 1234567": ["u1"], "a@b.example": ["x"]}), tmp_path / "table")
    assert guess(tmp_path, (tmp_path / "table").read_bytes(), MATCHING).names == ("", "")


def test_parquet_is_guessed_by_its_names(tmp_path: Path) -> None:
    """No cell is read, because a few bytes may unpack to gigabytes."""
    pq.write_table(pa.table({"id": ["u1"], "e-mail": ["a@b.example"]}), tmp_path / "table")
    found = guess(tmp_path, (tmp_path / "table").read_bytes(), MATCHING)
    assert found == Guess("parquet", "", False, ("user_id", "matching_id"), M.EMAIL, ("id", "e-mail"))


def test_a_line_that_unpacks_to_gigabytes_is_not_kept(tmp_path: Path) -> None:
    text = gzip.compress(b"a@b.example,x\n" * 700 + b"a," * 60_000_000 + b"\n")
    with peak_of(150_000_000), pytest.raises(InputError, match="too long"):
        guess(tmp_path, text, SEEDS)


def test_workbooks_do_not_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbooks, "_SECONDS_TO_WAIT", 0.01)
    with workbooks._TURNS, workbooks._TURNS, pytest.raises(InputError, match="busy with other"):
        chunks(tmp_path, workbook([["email"], ["a@b.example"]]))


@contextmanager
def peak_of(n_bytes: int) -> Iterator[None]:
    """Check the Python memory that a block takes at most."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "dataset", "sentence"),
    [
        pytest.param(f"{CANARY},a,b,c\n", SEEDS, "has 4 columns instead of 2", id="too many"),
        pytest.param(f"{CANARY}\n", MATCHING, "has 1 column instead of 2", id="too few"),
        pytest.param(f"email,user_id\n{CANARY},u\n", MATCHING, "not in the order", id="swapped"),
        pytest.param(f"{CANARY},x\n".encode("utf-16"), SEEDS, "UTF-16", id="utf-16"),
        pytest.param(b"\x1f\x8b" + CANARY.encode(), SEEDS, "cannot be read", id="damaged gzip"),
        pytest.param(b"PAR1" + CANARY.encode(), SEEDS, "cannot be read", id="damaged parquet"),
        pytest.param("\n\n", SEEDS, "has no rows", id="blank"),
    ],
)
def test_a_file_that_cannot_be_the_dataset_gets_one_sentence(
    tmp_path: Path, content: bytes | str, dataset: Dataset, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        guess(tmp_path, content, dataset)
    assert CANARY not in repr(raised.value)
    assert raised.value.__context__ is None or CANARY not in repr(raised.value.__context__)


def test_a_file_is_rewritten_as_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, 'unknown;"a, b"\nx@y.example;"c\nd"\n\n')
    found = b"".join(rewritten(path, scratch(tmp_path), separator=";", header=True))
    assert found == b'x@y.example,"c\nd"\n'


def test_a_line_of_excel_is_not_rewritten(tmp_path: Path) -> None:
    path = write(tmp_path, "sep=;\na@b.ch;x\n")
    assert b"".join(rewritten(path, scratch(tmp_path), separator=";", header=False)) == b"a@b.ch,x\n"


@pytest.mark.parametrize("text", NAMES)
def test_the_reader_takes_every_sample(tmp_path: Path, text: str) -> None:
    name = InputName.parse(text)
    path = write(tmp_path, "".join(",".join(map(str, row)) + "\n" for row in sample_rows(name)))
    n_embeddings = 3 if name.dataset is Dataset.EMBEDDINGS else None
    upload = RoomUpload(name.dataset, path, name.matching_id, n_embeddings)
    (tmp_path / "reading").mkdir()
    report = read_dataset(name.dataset, [upload], Reading(tmp_path / "reading", bytes(32))).report
    assert (report.passed, report.n_invalid_rows, report.n_rows) == (True, 0, len(sample_rows(name)) - 1)
    assert guess_file(path, name.dataset, tuple(M), scratch(tmp_path)).matching_id == name.matching_id
