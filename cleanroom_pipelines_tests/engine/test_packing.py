"""Compressed files.

Contract: the suffix says how a file is compressed, in any case, and the content where there is no suffix; what is
unpacked is the whole file, within the limit, or an error.
"""

import gzip
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest

from cleanroom_pipelines.engine.packing import open_binary, packing_of, unpacked_blocks
from cleanroom_pipelines.errors import InputError

from ..offenders import offenders

CONTENT = b"".join(b"%d,%d\n" % (i, i * 7) for i in range(50_000))


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstd}


def test_packing_is_named_by_the_suffix_or_by_the_content(tmp_path: Path) -> None:
    files = [
        ("t.csv", CONTENT, "none"),
        ("t.csv", gzip.compress(b"", mtime=0), "none"),
        ("t.csv.gz", b"no gzip", "gzip"),
        ("T.CSV.GZ", b"no gzip", "gzip"),
        ("t.csv.Zst", b"no zstd", "zstd"),
        ("20240101_120000", gzip.compress(CONTENT, mtime=0), "gzip"),
        ("part-0000", zstd(CONTENT), "zstd"),
        ("part-0001", CONTENT, "none"),
        ("empty", b"", "none"),
    ]

    def check(name: str, content: bytes, packing: str) -> None:
        (tmp_path / name).write_bytes(content)
        assert packing_of(tmp_path / name) == packing

    assert offenders(files, check) == []


@pytest.mark.parametrize("suffix", PACKERS)
def test_what_is_unpacked(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"t.csv.{suffix}"
    # What `cat` makes of two compressed files is one.
    file.write_bytes(PACKERS[suffix](CONTENT) + PACKERS[suffix](b"end\n"))
    assert b"".join(unpacked_blocks(file)) == CONTENT + b"end\n"
    with open_binary(file) as stream:
        assert stream.readline() == b"0,0\n"


@pytest.mark.parametrize("suffix", PACKERS)
def test_the_limit_is_of_what_is_unpacked(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"t.csv.{suffix}"
    file.write_bytes(PACKERS[suffix](CONTENT))
    assert sum(map(len, unpacked_blocks(file, max_bytes=len(CONTENT)))) == len(CONTENT)
    with pytest.raises(InputError) as caught:
        list(unpacked_blocks(file, max_bytes=len(CONTENT) - 1, what="seed"))
    assert caught.value.attributes["problem"] == "too large"


def test_damaged(tmp_path: Path) -> None:
    def check(suffix: str, how: str) -> None:
        packed = PACKERS[suffix](CONTENT)
        damages = {"cut": packed[:-1_000], "other": b"hello", "garbage": packed + b"garbage"}
        file = tmp_path / f"{how}.csv.{suffix}"
        file.write_bytes(damages[how])
        with pytest.raises(OSError, match="gzip" if suffix == "gz" else "zstd") as caught:
            list(unpacked_blocks(file))
        assert type(caught.value).__name__ == {"gz": "BadGzipFile", "zst": "BadZstdError"}[suffix]

    assert offenders(product(PACKERS, ["cut", "other", "garbage"]), check) == []
