"""Compressed files: detecting the compression, and decompressing with a limit on the size.

Lives here: which compression a file has, opening it, and unpacking it in blocks with a limit.
Add here when files may have another compression.
Keep out: file formats (`tables`).
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from cleanroom_pipelines.errors import InputError

Packing = Literal["none", "gzip", "zstd"]

_SUFFIXES: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd"}
_MAGIC: dict[bytes, Packing] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK_BYTES = 1 << 20


class BadZstdError(OSError):
    """The file is not zstd, is truncated, or does not match its checksums."""


def is_packed_name(file: Path) -> bool:
    """Whether a file's name ends in `.gz` or `.zst`."""
    return file.suffix.lower() in _SUFFIXES


def packing_of(file: Path) -> Packing:
    """Detect a file's compression by its suffix, or by its first bytes if it has no suffix."""
    if file.suffix:
        return _SUFFIXES.get(file.suffix.lower(), "none")
    with file.open("rb") as stream:
        start = stream.read(max(map(len, _MAGIC)))
    return next((packing for magic, packing in _MAGIC.items() if start.startswith(magic)), "none")


def open_binary(file: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if necessary; a zstd file can only be read from start to end."""
    packing = packing_of(file)
    if packing == "gzip":
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if packing == "zstd":
        return _open_zstd(file)
    return file.open("rb")


def unpacked_blocks(file: Path, *, max_bytes: int | None = None, what: str = "file") -> Iterator[bytes]:
    """Decompress a gzip or zstd file in blocks of 1 MB; a damaged file raises an error before its last block.

    Args:
        file: The file; it is read as gzip unless `packing_of` says zstd.
        max_bytes: Maximum unpacked size, since a few MB can expand to GB. None: no limit.
        what: Name of the file in messages.

    Raises:
        BadGzipFile: It is not gzip, is truncated, or does not match its checksums.
        BadZstdError: The same for zstd.
        InputError: It is larger; the attribute `problem` is "too large".
    """
    n_bytes = 0
    is_zstd = packing_of(file) == "zstd"
    try:
        with _open_zstd(file) if is_zstd else gzip.open(file, "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                n_bytes += len(block)
                if max_bytes is not None and n_bytes > max_bytes:
                    raise too_large(max_bytes, what)
                yield block
        return
    except (EOFError, zlib.error):
        pass
    except OSError as error:
        # Errors of the file system have a number; those of a codec have none.
        if not is_zstd or error.errno is not None:
            raise
    if is_zstd:
        raise BadZstdError("The zstd file is truncated or damaged.")
    raise gzip.BadGzipFile("The gzip file is truncated or damaged.")


def too_large(max_bytes: int, what: str = "file") -> InputError:
    """Return the error for input whose decompressed size exceeds the limit."""
    return InputError(
        f"The {what} is larger than {max_bytes:,} bytes when unpacked.",
        remedy="Use a smaller file, or ask the operator to raise the limit.",
        problem="too large",
    )


def _open_zstd(file: Path) -> IO[bytes]:
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(file), compression="zstd"))
