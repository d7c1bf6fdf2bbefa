"""Text files that lost something on their way, for tests of whatever reads them.

Keep out: assertions.
"""

import gzip
import struct
import zlib
from collections.abc import Callable


def _cut(content: bytes) -> bytes:
    packed = gzip.compress(content, mtime=0)
    return packed[: len(packed) * 3 // 4]


def _without_end(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)[:-8]


def _with_another_checksum(content: bytes) -> bytes:
    packed = gzip.compress(content, mtime=0)
    return packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]


def _shorter_than_it_says(content: bytes) -> bytes:
    """Two thirds of the lines with the checksum and length of all, as when a changed bit ends the data early."""
    lines = content.splitlines(keepends=True)
    part = b"".join(lines[: len(lines) * 2 // 3])
    return gzip.compress(part, mtime=0)[:-8] + struct.pack("<II", zlib.crc32(content), len(content))


GZIPS: dict[str, Callable[[bytes], bytes]] = {
    "cut": _cut,
    "without its end": _without_end,
    "another checksum": _with_another_checksum,
    "shorter than it says": _shorter_than_it_says,
}
"""By what is wrong with it, how a gzip of some content is damaged."""


def with_open_quote(content: bytes) -> bytes:
    """A CSV in the middle of which a quote is opened before the last cell of a line, and not closed."""
    lines = content.splitlines(keepends=True)
    before, comma, last = lines[len(lines) // 2].rpartition(b",")
    lines[len(lines) // 2] = before + comma + b'"' + last
    return b"".join(lines)
