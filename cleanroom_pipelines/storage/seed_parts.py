"""Formats of seed files, and merging several files into one seed.

Lives here: formats by file suffix; concatenating JSON Lines, CSV or parquet files with the same columns.
Add here when seeds may have another format.
Keep out: the meaning of columns (uploads); fetching files (buckets).
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from cleanroom_pipelines.errors import SeedError

Format = Literal["jsonl", "csv", "parquet"]

# The suffixes of `engine.tables`. A `.txt` file, which holds CSV, is a seed but not a part of one.
_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_PACKED = ("", ".gz", ".zst")
_WORKBOOKS = (".xls", ".xlsb", ".xlsm", ".xlsx")
_CHUNK_BYTES = 1 << 20
_ROWS_AT_ONCE = 65_536
_BOM = b"\xef\xbb\xbf"


class SeedTooLarge(Exception):  # noqa: N818  the caller, who knows the limit, reports it
    """The seed exceeds the size limit."""


def seed_suffix(file: Path) -> str:
    """Return the suffix of a seed's format, such as `.csv.gz`.

    Raises:
        SeedError: The suffix is not supported.
    """
    check_not_workbook(file)
    suffix, packed = _split(file.name)
    if suffix == ".txt" or format_of_part(file.name):
        return suffix + packed
    raise SeedError(
        "The seed's file format is not supported.",
        remedy="Use .parquet, .csv, .tsv, .txt or .jsonl; text files may be compressed as .gz or .zst.",
    )


def check_not_workbook(file: Path) -> None:
    """Reject an Excel workbook by its suffix.

    Raises:
        SeedError: It is a workbook.
    """
    if file.suffix.lower() in _WORKBOOKS:
        raise SeedError("Excel workbooks are not read.", remedy="Save the first sheet as CSV UTF-8.")


def format_of_part(name: str) -> Format | None:
    """Return the format that a file's suffix names; None if seeds do not support it."""
    suffix, packed = _split(name)
    format_ = _FORMATS.get(suffix)
    return None if format_ == "parquet" and packed == ".zst" else format_


def _split(name: str) -> tuple[str, str]:
    """Return the suffix of a file's format and the suffix of its compression, in lower case."""
    lower = name.lower()
    packed = max((end for end in _PACKED if lower.endswith(end)), key=len)
    return Path(lower.removesuffix(packed)).suffix, packed


def merge_parts(parts: Sequence[Path], target: Path, *, max_bytes: int) -> None:
    """Merge the rows of all parts, in order, into one file.

    Args:
        parts: Files of one format, optionally compressed.
        target: Output file, not compressed.
        max_bytes: Maximum unpacked size of all parts together, in bytes.

    Raises:
        SeedTooLarge: The parts are larger.
        SeedError: A part cannot be read, or the columns differ.
    """
    format_ = format_of_part(parts[0].name)
    try:
        if format_ == "parquet":
            _merge_parquet(parts, target, max_bytes)
        else:
            with target.open("wb") as stream:
                _merge_text(parts, stream, max_bytes, has_header=format_ == "csv")
        return
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file system, not of a codec
            raise
        cause = type(error).__name__
    raise SeedError(f"A file in the seed's folder cannot be read ({cause}).", remedy="Check that it is complete.")


def _merge_text(parts: Sequence[Path], target: IO[bytes], max_bytes: int, *, has_header: bool) -> None:
    header: bytes | None = None
    left = max_bytes
    for part in parts:
        end = b"\n"
        chunks = _chunks(part, left)
        first = next(chunks, b"").removeprefix(_BOM)
        left -= len(first)
        if has_header:
            own, first = _split_header(first)
            end = own[len(own.rstrip(b"\r\n")) :] or b"\n"
            if header is None:
                header = own
                target.write(own)
            elif own.rstrip(b"\r\n") != header.rstrip(b"\r\n") or (first and own != header):
                raise SeedError(
                    "The CSV files in the seed's folder have different headers.",
                    remedy="Use the same header and line endings in each file.",
                )
        last = first
        target.write(first)
        for chunk in chunks:
            left -= len(chunk)
            target.write(chunk)
            last = chunk
        if last and not last.endswith((b"\n", b"\r")):
            target.write(end)


def _split_header(first: bytes) -> tuple[bytes, bytes]:
    ends = [place for place in (first.find(b"\n"), first.find(b"\r")) if place >= 0]
    end = min(ends, default=len(first) - 1) + 1
    if first[end - 1 : end + 1] == b"\r\n":
        end += 1
    header = first[:end]
    if len(header) >= _CHUNK_BYTES or header.count(b'"') % 2:
        raise SeedError(
            "The header of a CSV file in the seed's folder is too long or spans several lines.",
            remedy="Write the header in one short line.",
        )
    return header, first[end:]


def _chunks(part: Path, max_bytes: int) -> Iterator[bytes]:
    n_read = 0
    with _open(part) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            n_read += len(chunk)
            if n_read > max_bytes:
                raise SeedTooLarge
            yield chunk


def _open(part: Path) -> IO[bytes]:
    packed = part.suffix.lower()
    if packed == ".zst":
        import pyarrow as pa

        return pa.input_stream(str(part), compression="zstd")  # type: ignore[no-any-return]
    return gzip.open(part) if packed == ".gz" else part.open("rb")  # type: ignore[return-value]


def _merge_parquet(parts: Sequence[Path], target: Path, max_bytes: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    left = max_bytes
    try:
        schema: pa.Schema | None = None
        writer: pq.ParquetWriter | None = None
        try:
            for part in parts:
                plain = part.with_suffix(".plain")
                with plain.open("wb") as stream:
                    for chunk in _chunks(part, left):
                        left -= len(chunk)
                        stream.write(chunk)
                part.unlink()
                with pq.ParquetFile(plain) as file:
                    if schema is None or writer is None:
                        schema = file.schema_arrow.remove_metadata()
                        writer = pq.ParquetWriter(target, schema, compression="zstd")
                    elif file.schema_arrow.remove_metadata() != schema:
                        raise SeedError(
                            "The parquet files in the seed's folder have different columns.",
                            remedy="Use the same columns and types in each file.",
                        )
                    for batch in file.iter_batches(_ROWS_AT_ONCE):
                        writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                        if target.stat().st_size > max_bytes:
                            raise SeedTooLarge
                plain.unlink()
        finally:
            if writer is not None:
                writer.close()
        return
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, SeedError):
            raise
        cause = type(error).__name__
    raise SeedError(f"A file in the seed's folder cannot be read ({cause}).", remedy="Check that it is complete.")
