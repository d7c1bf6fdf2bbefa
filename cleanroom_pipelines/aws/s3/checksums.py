"""Checksums of bodies, as S3 clients declare them in headers and trailers.

Lives here: the algorithms, under the names of their headers.
Add here when the model gets an algorithm that can be computed with what is installed.

zlib has CRC32, hashlib has MD5 and SHA. No package of the lock file has CRC32C and CRC64NVME, so numpy computes
them here: it cuts the data into lanes, advances all of them by one byte per step, and joins the lanes pairwise.
Small updates are collected first, because computing them one by one takes ten times as long.
"""

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final, Protocol

import numpy as np

from cleanroom_pipelines.aws.s3.errors import S3Error

PREFIX: Final = "x-amz-checksum-"
_NO_VALUES: Final = ("algorithm", "type", "mode")  # headers with the same prefix that are not checksums
_N_LANES = 1024


class Checksum(Protocol):
    """A checksum being computed."""

    def update(self, data: bytes, /) -> None:
        """Add bytes to the checksum."""

    def digest(self) -> bytes:
        """Return the checksum of the bytes so far, big-endian."""


def checksum_of(header: str) -> Checksum:
    """Start the checksum that a header or trailer such as `x-amz-checksum-crc32` declares.

    Raises:
        S3Error: NotImplemented or InvalidRequest.
    """
    name = header.removeprefix(PREFIX)
    if name in _ALGORITHMS:
        return _ALGORITHMS[name]()
    if name.startswith("xxhash"):
        raise S3Error("NotImplemented", "XXHash checksums are not supported here. Use CRC32, CRC64NVME or SHA256.")
    raise S3Error("InvalidRequest", "The checksum's algorithm is unknown. Use CRC32, CRC64NVME or SHA256.")


def is_checksum(header: str) -> bool:
    """Whether a header contains a checksum of the body."""
    return header.startswith(PREFIX) and header.removeprefix(PREFIX) not in _NO_VALUES


def decoded(value: str, n_bytes: int) -> bytes:
    """Decode a declared checksum from Base64.

    Raises:
        S3Error: InvalidDigest.
    """
    try:
        found = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise S3Error("InvalidDigest") from None
    if len(found) != n_bytes:
        raise S3Error("InvalidDigest")
    return found


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class _Crc:
    """A reflected CRC whose initial state and result have all bits inverted.

    Args:
        polynomial: The polynomial, reflected.
        n_bytes: Size of the checksum.
    """

    def __init__(self, polynomial: int, n_bytes: int) -> None:
        self._polynomial, self._n_bytes = polynomial, n_bytes
        self._mask = self._value = (1 << 8 * n_bytes) - 1
        self._waiting = bytearray()

    def update(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= _N_LANES * 64:
            self._add_waiting()

    def digest(self) -> bytes:
        self._add_waiting()
        return (self._value ^ self._mask).to_bytes(self._n_bytes, "big")

    def _add_waiting(self) -> None:
        data, self._waiting = bytes(self._waiting), bytearray()
        table = _table(self._polynomial)
        n_short = len(data) % _N_LANES if len(data) >= _N_LANES * 16 else len(data)
        value = self._value
        for byte in data[:n_short]:
            value = int(table[(value ^ byte) & 0xFF]) ^ value >> 8
        if n_short < len(data):
            value = self._in_lanes(np.frombuffer(data, np.uint8, offset=n_short).reshape(_N_LANES, -1), value)
        self._value = value

    def _in_lanes(self, lanes: "np.ndarray[Any, np.dtype[np.uint8]]", start: int) -> int:
        table, length = _table(self._polynomial), lanes.shape[1]
        values = np.zeros(_N_LANES, np.uint64)
        values[0] = start
        for column in np.ascontiguousarray(lanes.T):
            values = table[(values.astype(np.uint8)) ^ column] ^ values >> np.uint64(8)
        while len(values) > 1:
            values = _advanced(values[::2], self._polynomial, length) ^ values[1::2]
            length *= 2
        return int(values[0])


_Numbers = np.ndarray[Any, np.dtype[np.uint64]]


@cache
def _table(polynomial: int) -> _Numbers:
    values = np.arange(256, dtype=np.uint64)
    for _ in range(8):
        values = np.where(
            values & np.uint64(1), values >> np.uint64(1) ^ np.uint64(polynomial), values >> np.uint64(1)
        )
    return values


def _advanced(values: _Numbers, polynomial: int, n_bytes: int) -> _Numbers:
    """Advance CRC states by `n_bytes` zero bytes, with cached tables for powers of two."""
    power = 0
    while n_bytes:
        if n_bytes & 1:
            values = _applied(_zeros(polynomial, power), values)
        n_bytes >>= 1
        power += 1
    return values


@cache
def _zeros(polynomial: int, power: int) -> _Numbers:
    """Return a table for each byte of a CRC state: the byte's effect on the state after 2**power zero bytes."""
    if power:
        half = _zeros(polynomial, power - 1)
        return _applied(half, half.reshape(-1)).reshape(8, 256)
    states = np.arange(256, dtype=np.uint64)[None, :] << (np.arange(8, dtype=np.uint64) * np.uint64(8))[:, None]
    found: _Numbers = _table(polynomial)[states & np.uint64(0xFF)] ^ states >> np.uint64(8)
    return found


def _applied(tables: _Numbers, values: _Numbers) -> _Numbers:
    found = np.zeros_like(values)
    for number in range(8):
        found ^= tables[number][values >> np.uint64(8 * number) & np.uint64(0xFF)]
    return found


_ALGORITHMS: Final[dict[str, Callable[[], Checksum]]] = {
    "crc32": _Crc32,
    "crc32c": lambda: _Crc(0x82F63B78, 4),
    "crc64nvme": lambda: _Crc(0x9A6C9329AC4BC9B5, 8),
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
}
