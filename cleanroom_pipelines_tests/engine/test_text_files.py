r"""Shapes of text files, and reading them.

Contract: a column that no query needs never matters, nor do blank lines; quotes are read as they were written,
doubled or with a backslash; text in another encoding is named, and never shown.
"""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cleanroom_pipelines.engine import EngineSettings, TableFiles, encoding_error, find_tables, open_engine
from cleanroom_pipelines.engine.text_files import csv_shape, encoding_of
from cleanroom_pipelines.errors import InputError

from ..offenders import offenders

SETTINGS = EngineSettings(memory_bytes=256 << 20, threads=2)
CANARY = "kanarienvogel"


def read(tables: TableFiles) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    """The rows of a table, and the lines that were rejected."""
    with open_engine(SETTINGS, paths=tables.files) as engine:
        engine.scan("t", tables)
        rows = [tuple(row.values()) for row in engine.fetch("SELECT * FROM t").to_pylist()]
        return rows, [(line["line"], line["reason"]) for line in engine.rejected_lines().to_pylist()]


def rows_of(file: Path, content: bytes) -> list[tuple[Any, ...]]:
    file.write_bytes(content)
    rows, rejected = read(find_tables(file))
    assert rejected == []
    return rows


def test_names_that_cannot_be_columns_keep_their_places(tmp_path: Path) -> None:
    headers = [
        (b",a\n0,1\n", ("a",), set(), [("1",)]),
        (b"a,\n1,\n2,x\n", ("a",), set(), [("1",), ("2",)]),
        (b"a,,b,\n1,x,2,\n", ("a", "b"), set(), [("1", "2")]),
        (b"a,n,b,n\n1,x,2,y\n", ("a", "b"), {"n"}, [("1", "2")]),
        (b"n,N,a\nx,y,1\n", ("a",), {"n", "N"}, [("1",)]),
        (b"n\x00l,a\nx,1\n", ("a",), set(), [("1",)]),
        (b"n,n\nx,1\n", (), {"n"}, [(None,)]),
    ]

    def check(content: bytes, columns: tuple[str, ...], repeated: set[str], rows: list[tuple[Any, ...]]) -> None:
        file = tmp_path / "t.csv"
        assert rows_of(file, content) == rows
        tables = find_tables(file)
        assert (tables.columns, tables.repeated) == (columns, repeated)

    assert offenders(headers, check) == []


def test_repeated_columns_can_be_read_by_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,Email,Zip,Email,zip\n1,a,b,c,d\n")
    (tmp_path / "2.csv").write_text("Email,id,Email\ne,2,f\n")
    tables = find_tables(tmp_path)
    assert (tables.columns, tables.repeated) == (("id",), {"Email", "Zip", "zip"})
    assert tables.numbered().columns == ("id", "Email 1", "Email 2")
    assert read(tables.numbered())[0] == [("1", "a", "c"), ("2", "e", "f")]
    (tmp_path / "1.csv").write_text("id,Email,Email,email 2\n1,a,b,c\n")
    assert find_tables(tmp_path / "1.csv").numbered().columns == ("id", "email 2", "Email 1")


def test_files_with_other_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,more,n\n1,x,5\n")
    (tmp_path / "2.csv").write_text("n;id\n6;2\n")
    (tmp_path / "3.tsv").write_text("id\tn\tn,m\n3\t7\tx\n")
    tables = find_tables(tmp_path)
    assert tables.columns == ("id", "n")
    assert read(tables) == ([("1", "5"), ("2", "6"), ("3", "7")], [])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_blank_lines_of_a_list_are_not_rows(tmp_path: Path, end: bytes) -> None:
    content = end.join([b"id", b"", b"1", b"", b"", b"2", b'""', b" ", b"3", b"", b""])
    assert rows_of(tmp_path / "t.csv", content) == [("1",), ("2",), (None,), (" ",), ("3",)]
    content = end.join([b"a,b", b"", b"1,2", b"", b",", b""])
    assert rows_of(tmp_path / "t.csv", content) == [
        ("1", "2"),
        (None, None),
    ]


def test_a_comma_at_the_end_of_rows(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "t.csv", b"id\n1,\n2,\n") == [("1",), ("2",)]
    assert rows_of(tmp_path / "t.csv", b"a,b\n1,2,\n3,4\n") == [("1", "2"), ("3", "4")]


BACKSLASHES = [
    (rb'1,"5\" screen"', '5" screen'),
    (rb'1,"\"Q\""', '"Q"'),
    (rb'1,"a \", b \" c"', 'a ", b " c'),
    (rb'1,"ends \\"', "ends \\"),
    (b'1,"\\"two\\"\nlines"', '"two"\nlines'),
]


def test_quotes_with_a_backslash(tmp_path: Path) -> None:
    def check(line: bytes, cell: str) -> None:
        plain = b'2,""\n3,back\\slash\n'
        more = b'4,"5\\" screen"\n'
        content = b"id,title\n" + plain + line + b"\n" + more + b"5,x\n"
        expected = [("2", None), ("3", "back\\slash"), ("1", cell), ("4", '5" screen'), ("5", "x")]
        assert rows_of(tmp_path / "t.csv", content) == expected
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(content))
        assert read(find_tables(tmp_path / "t.csv.gz")) == (expected, [])

    assert offenders(BACKSLASHES, check) == []
    assert rows_of(tmp_path / "t.csv", b'id,t\n1,"5\\" screen",\n2,x,\n') == [("1", '5" screen'), ("2", "x")]


def test_a_backslash_that_is_not_an_escape(tmp_path: Path) -> None:
    contents = [
        (b'id,path\n1,"C:\\"\n2,"D:\\"\n', ["C:\\", "D:\\"]),
        (b'id,path\n1,"say ""\\"" now"\n', ['say "\\" now']),
        (b'id,path\n1,"""C:\\"""\n2,"x ""y"" z"\n', ['"C:\\"', 'x "y" z']),
        (b'id,path\n1,a\\"b\n2,x\n', ['a\\"b', "x"]),
    ]

    def check(content: bytes, cells: list[str]) -> None:
        assert [row[1] for row in rows_of(tmp_path / "t.csv", content)] == cells

    assert offenders(contents, check) == []


def test_files_with_other_escapes(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_bytes(b'id,t\n1,"a ""b"""\n')
    (tmp_path / "2.csv").write_bytes(b'id,t\n2,"a \\"b\\""\n')
    (tmp_path / "3.csv").write_bytes(b'id,t\n3,"a ""b"""\n')
    assert read(find_tables(tmp_path)) == ([("1", 'a "b"'), ("2", 'a "b"'), ("3", 'a "b"')], [])


def test_delimiters(tmp_path: Path) -> None:
    headers = [("t.tsv", b"a,b\tc\n", "\t"), ("T.TSV", b"a,b,c\td\n", "\t"), ("t.tsv", b"a,b\n", ",")]
    headers += [
        ("t.csv", b"a,b,c\td\n", ","),
        ("t.txt", b"a;b\n", ";"),
        ("t.csv", b'a;"b, c, d";e\n', ";"),
        ("t.tsv.gz", gzip.compress(b"a,b,c\td\n"), "\t"),
    ]

    def check(name: str, content: bytes, delimiter: str) -> None:
        (tmp_path / name).write_bytes(content)
        assert csv_shape(tmp_path / name).delimiter == delimiter

    assert offenders(headers, check) == []


ABOVE = [
    (b"sep=;\n", b";"),
    (b"sep=\t\n", b"\t"),
    (b'"Report, by customers","",""\n', b","),
    (b"SEP=|\nReport of 2024\n\n", b"|"),
    (b"Report of customers;\n", b";"),
    (b"Report of customers\n# made in May\n", b","),
    (b"# made in May\n", b"\t"),
    (b"\n\n", b","),
    (b",,\n", b","),
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_above_the_header_are_not_read(tmp_path: Path, end: bytes, mark: bytes) -> None:
    def check(above: bytes, delimiter: bytes) -> None:
        lines = above + b"user_id,name\nu1,Ann\nu2\nu3,Joe\n".replace(b",", delimiter)
        (tmp_path / "t.csv").write_bytes(mark + lines.replace(b"\n", end))
        tables = find_tables(tmp_path / "t.csv")
        assert tables.columns == ("user_id", "name")
        line = above.count(b"\n") + 3
        assert read(tables) == ([("u1", "Ann"), ("u3", "Joe")], [(line, "MISSING COLUMNS")])

    assert offenders(ABOVE, check) == []


def test_a_header_that_is_like_a_title_is_the_header(tmp_path: Path) -> None:
    """Where a single column, or the only named one, has a name of two words, and rows are like names."""
    headers = [
        (b"customer id\nalice\nbob 7\n", ("customer id",)),
        (b"customer id,\nalice,\nbob7,\n", ("customer id",)),
        (b"customer id,\n7,x\n8,y\n", ("customer id",)),
        (b"customer id,\nalice,x\nbob,y\n", ("customer id",)),
        (b"#\n1\n2\n", ("#",)),
        (b"sep=x;a\n1;2\n", ("sep=x", "a")),
    ]

    def check(content: bytes, columns: tuple[str, ...]) -> None:
        assert len(rows_of(tmp_path / "t.csv", content)) == content.count(b"\n") - 1
        assert find_tables(tmp_path / "t.csv").columns == columns

    assert offenders(headers, check) == []
    # DuckDB would look for the end of the quote in the rows.
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbf"our list,"\na,b\n1,2\n')
    assert find_tables(tmp_path / "t.csv").columns == ("our list,",)


def test_encodings_are_named(tmp_path: Path) -> None:
    text = f"user_id,größe\n1,{CANARY}\n"
    files = [
        ("t.csv", text.encode("utf-16"), "UTF-16"),
        ("t.csv", text.encode("utf-16-le"), "UTF-16"),
        ("t.csv", text.encode("utf-16-be"), "UTF-16"),
        ("t.csv.gz", gzip.compress(text.encode("utf-16")), "UTF-16"),
        ("t.csv.zst", pa.compress(text.encode("utf-16"), codec="zstd", asbytes=True), "UTF-16"),
        ("t.csv", text.encode("cp1252"), "Windows-1252"),
        ("t.jsonl", f'{{"user_id": "{CANARY}"}}\n'.encode("utf-16"), "UTF-16"),
        ("t.jsonl", f'{{"größe": "{CANARY}"}}\n'.encode("cp1252"), "Windows-1252"),
    ]

    def check(name: str, content: bytes, encoding: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            find_tables(tmp_path / name, what="seed")
        assert caught.value.message.startswith(f"The seed looks like {encoding}")
        assert "UTF-8" in caught.value.remedy
        assert CANARY not in str(caught.value)
        assert caught.value.__context__ is None
        assert encoding_of(tmp_path / name) == encoding

    assert offenders(files, check) == []


def test_encodings_of_rows(tmp_path: Path) -> None:
    files = [
        (b"id,city\n1,Bern\n" * 9 + "2,Zürich\n".encode("cp1252"), "Windows-1252"),
        ("id,city\n1,Zürich\n".encode(), None),
        ("\ufeffid,city\n1,Zürich\n".encode(), None),
        (b"id,city\n1,\xff\x00\x01\n", None),
        (b"id,city\n" + b"\x00" * 50, None),
        (gzip.compress(b"id\n1\n"), None),
    ]

    def check(content: bytes, encoding: str | None) -> None:
        (tmp_path / "t.csv").write_bytes(content)
        assert encoding_of(tmp_path / "t.csv") == encoding

    assert offenders(files, check) == []
    # A column that is not needed may be in any encoding.
    (tmp_path / "t.csv").write_bytes("id,city\n1,Zürich\n".encode("cp1252"))
    error = encoding_error(find_tables(tmp_path), "seed")
    assert error is not None
    assert str(error) == "The seed looks like Windows-1252 (Excel's 'CSV'). Save it as 'CSV UTF-8'."
    assert read(find_tables(tmp_path / "t.csv").select(["id"])) == ([("1",)], [])


def test_a_damaged_file_is_found_when_it_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "t.csv.gz"
    file.write_bytes(gzip.compress(b"id,n\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(50_000)))[:-2_000])
    assert find_tables(file).columns == ("id", "n")
