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
    content = os.urandom(300_001)
    byte_by_byte = digest(name, *(content[at : at + 1000] for at in range(0, len(content), 1000)))
    for cut in (1, 16_384, 16_385, 100_000):
        assert digest(name, content[:cut], content[cut:]) == byte_by_byte
    assert digest(name, content) == byte_by_byte


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
