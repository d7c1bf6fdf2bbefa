"""Hashes of matching ids.

Lives here: the SHA-256 of normal forms, and the keyed digest under which a room stores them.
Add here when ids are hashed for another purpose inside the installation.
Keep out: the hashes that ad destinations require (delivery), and the source of keys (`storage.keys`).
"""

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.identity.judging import JudgedIds
from cleanroom_pipelines.terms import Family

_BLOCK_BYTES = 64
_MIN_KEY_BYTES = 16


def sha256_hex(judged: JudgedIds) -> pa.Array:
    """Return the SHA-256 of each valid id.

    Args:
        judged: The result of `judge_ids`.

    Returns:
        64 lower-case hex digits per id: the hash of the normal form in UTF-8, or the id itself if its kind is
        hashed; null for an invalid id.
    """
    if judged.kind.is_hashed:
        return judged.normal
    sha256 = hashlib.sha256
    texts = judged.normal.cast(pa.binary()).to_pylist()
    return pa.array([None if text is None else sha256(text).hexdigest() for text in texts], pa.string())


def room_digests(room_key: bytes, family: Family, hashes: pa.Array) -> pa.Array:
    """Return the keyed digests under which a room stores ids: HMAC-SHA256(room key, "<family>:<sha256 hex>").

    Without a secret key, a digest of a phone number could be reversed by trying all numbers.

    Args:
        room_key: The room's secret, at least 16 bytes.
        family: The family of the ids.
        hashes: The result of `sha256_hex`.

    Returns:
        64 lower-case hex digits per hash; null where the hash is null.

    Raises:
        UsageError: The key is too short.
    """
    if len(room_key) < _MIN_KEY_BYTES:
        raise UsageError(
            f"The room's key is shorter than {_MIN_KEY_BYTES} bytes.",
            remedy="Derive it from the installation key.",
        )
    # The two halves of HMAC (RFC 2104) are set up once and copied: half the time of calling hmac.digest for each
    # id. A test compares the results.
    key = hashlib.sha256(room_key).digest() if len(room_key) > _BLOCK_BYTES else room_key
    key = key.ljust(_BLOCK_BYTES, b"\x00")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + f"{family}:".encode())
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def digest(text: bytes) -> str:
        first = inner.copy()
        first.update(text)
        second = outer.copy()
        second.update(first.digest())
        return second.hexdigest()

    texts = pc.cast(hashes, pa.binary()).to_pylist()
    return pa.array([None if text is None else digest(text) for text in texts], pa.string())
