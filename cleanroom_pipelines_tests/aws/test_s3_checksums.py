"""Contract: checksums are those of their standards, for any content and however it is cut into pieces."""

import hashlib
import os
import zlib

import pytest

from cleanroom_pipelines.aws.s3.checksums import checksum_of, decoded, is_checksum
from cleanroom_pipelines.aws.s3.errors import S3Error

# check values of "123456789" as the catalogue of CRC algorithms has them
KNOWN = {"crc32": "cbf43926", "crc32c": "e3069283", "crc64nvme": "ae8b14860a799888"}


def digest(name: str, *pieces: bytes) -> bytes:
    checksum = checksum_of(f"x-amz-checksum-{name}")
    for piece in pieces:
        checksum.update(piece)
    return checksum.digest()


@pytest.mark.parametrize("name", KNOWN)
def test_check_values(name: str) -> None:
    assert digest(name, b"123456789").hex() == KNOWN[name]
    assert digest(name) == bytes(len(KNOWN[name]) // 2)


@pytest.mark.parametrize("name", ["crc32c", "crc64nvme"])
def test_pieces_do_not_matter(name: str) -> None:
    content = os.urandom(150_001)
    bit_by_bit = reference(name, content)
    for cut in (1, 16_384, 65_535, 65_536, 100_000):
        assert digest(name, content[:cut], content[cut:]) == bit_by_bit
    assert digest(name, *(content[at : at + 1000] for at in range(0, len(content), 1000))) == bit_by_bit
    assert digest(name, content) == bit_by_bit


def reference(name: str, content: bytes) -> bytes:
    polynomial, n_bytes = {"crc32c": (0x82F63B78, 4), "crc64nvme": (0x9A6C9329AC4BC9B5, 8)}[name]
    value = mask = (1 << 8 * n_bytes) - 1
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
    return (value ^ mask).to_bytes(n_bytes, "big")


def test_digests_of_the_standard_library() -> None:
    for name in ("md5", "sha1", "sha256", "sha512"):
        assert digest(name, b"a", b"b") == hashlib.new(name, b"ab").digest()
    assert digest("crc32", b"a", b"b") == zlib.crc32(b"ab").to_bytes(4, "big")


@pytest.mark.parametrize(("name", "error"), [("xxhash64", "NotImplemented"), ("none", "InvalidRequest")])
def test_other_algorithms_are_rejected(name: str, error: str) -> None:
    with pytest.raises(S3Error) as caught:
        checksum_of(f"x-amz-checksum-{name}")
    assert caught.value.name == error


def test_declared_values() -> None:
    assert decoded("y/Q5Jg==", 4).hex() == "cbf43926"
    for value in ("", "y/Q5Jg", "y/Q5Jg==\n", "AAAA", "*"):
        with pytest.raises(S3Error):
            decoded(value, 4)
    assert [is_checksum(f"x-amz-checksum-{name}") for name in ("crc32", "type", "mode", "algorithm")] == [
        True,
        False,
        False,
        False,
    ]
