"""Bodies of S3 requests: plain, or in chunks that may be signed, with checksums in headers or in a trailer.

Lives here: decoding `aws-chunked` bodies piece by piece, and comparing a body with its declared length and hashes.
Keep out: where the content is kept, and verifying requests (`aws.signing`).

Source: "Authenticating Requests" in the S3 API reference. The content may be used once `finish` has returned.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Final

from cleanroom_pipelines.aws.s3.checksums import Checksum, checksum_of, decoded, is_checksum
from cleanroom_pipelines.aws.s3.errors import S3Error
from cleanroom_pipelines.aws.signing import UNSIGNED, S3Signature

_SHA256 = re.compile("[0-9a-f]{64}")
_NUMBER = re.compile("[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?")
_TRAILER = re.compile(rb"([A-Za-z0-9-]{1,64}):([\x20-\x7e]{1,1024})")
_STREAMING: Final = "STREAMING-"
_SIGNED_STREAMING: Final = f"{_STREAMING}AWS4-HMAC-SHA256-PAYLOAD"
_WITH_TRAILER: Final = "-TRAILER"
_UNSIGNED_STREAMING: Final = f"{_STREAMING}{UNSIGNED}{_WITH_TRAILER}"
_LONGEST_LINE: Final = 1200
_MOST_TRAILERS: Final = 8
# S3 accepts only the last chunk below this size: reading smaller ones takes much time.
_SMALL_CHUNK: Final = 8 << 10
_MOST_SMALL_CHUNKS: Final = 1000
_EMPTY: Final = hashlib.sha256(b"").hexdigest()
_CHUNKED: Final = "aws-chunked"


class Body:
    """A body being received; call `take` for each piece, and `finish` at the end.

    Args:
        signature: The request's signature.
        headers: The request's headers by lower-case name.
        most_bytes: Largest allowed size of the content.
        is_private: Whether the connection protects the body, so that it need not be signed.
        is_content: Whether checksums in the headers cover this body, and not a whole object of several parts.

    Raises:
        S3Error: The declaration of the body is invalid, or the content too large.
    """

    def __init__(
        self,
        signature: S3Signature,
        headers: Mapping[str, str],
        *,
        most_bytes: int,
        is_private: bool,
        is_content: bool = True,
    ) -> None:
        self.n_bytes = 0
        self._most = most_bytes
        self._payload = signature.payload
        self._declared = _length(headers, is_chunked=self._payload.startswith(_STREAMING))
        if not is_private and UNSIGNED in self._payload and self._declared != 0:
            raise S3Error("InvalidRequest", "Over plain HTTP the body must be signed. Use TLS, or sign the body.")
        if self._declared is not None and self._declared > most_bytes:
            raise S3Error("EntityTooLarge")
        self._chunks = _chunks_of(signature, headers)
        self._digest = hashlib.sha256() if _SHA256.fullmatch(self._payload) else None
        if self._digest is None and self._chunks is None and self._payload != UNSIGNED:
            raise S3Error("InvalidArgument", "This x-amz-content-sha256 value is not supported here.")
        self._expected: dict[str, tuple[Checksum, str]] = {}
        for name in filter(is_checksum, headers if is_content else ()):
            self._expected[name] = (checksum_of(name), headers[name])
        if "content-md5" in headers:
            self._expected["content-md5"] = (checksum_of("md5"), headers["content-md5"])
        for name in self._chunks.trailers if self._chunks else ():
            self._expected[name] = (checksum_of(name), "")
        for checksum, value in self._expected.values():
            if value:
                decoded(value, len(checksum.digest()))

    @property
    def checksums(self) -> dict[str, str]:
        """The checksums that the client declared, by header name."""
        return {name: value for name, (_, value) in self._expected.items() if name != "content-md5"}

    def take(self, piece: bytes) -> Iterator[bytes]:
        """Yield the content of a received piece of the body, without the chunk framing.

        Raises:
            S3Error: The body is too large, or a chunk is invalid or not signed as declared.
        """
        for content in (piece,) if self._chunks is None else self._chunks.take(piece):
            self.n_bytes += len(content)
            if self.n_bytes > (self._most if self._declared is None else self._declared):
                if self._declared is None:
                    raise S3Error("EntityTooLarge")
                raise S3Error("IncompleteBody", "The body is longer than its declared length. Send it again.")
            if self._digest is not None:
                self._digest.update(content)
            for checksum, _ in self._expected.values():
                checksum.update(content)
            yield content

    def finish(self) -> None:
        """Compare the whole body with its declared length and checksums.

        Raises:
            S3Error: The body differs from what was declared.
        """
        if self._chunks is not None:
            for name, value in self._chunks.finish().items():
                self._expected[name] = (self._expected[name][0], value)
        if self._declared is not None and self.n_bytes != self._declared:
            raise S3Error("IncompleteBody")
        if self._digest is not None and self._digest.hexdigest() != self._payload:
            raise S3Error("XAmzContentSHA256Mismatch")
        for checksum, value in self._expected.values():
            actual = checksum.digest()
            if decoded(value, len(actual)) != actual:
                raise S3Error("BadDigest")


def _length(headers: Mapping[str, str], *, is_chunked: bool) -> int | None:
    """Return the declared length of the content; None for a body with Transfer-Encoding and no declared length."""
    name = "x-amz-decoded-content-length" if is_chunked else "content-length"
    text = headers.get(name)
    if text is None:
        if is_chunked or headers.get("transfer-encoding"):
            if is_chunked:
                raise S3Error("MissingContentLength", "The request needs x-amz-decoded-content-length.")
            return None
        return 0
    if not _NUMBER.fullmatch(text):
        raise S3Error("InvalidArgument", "The length of the body is not a number.")
    return int(text)


def _chunks_of(signature: S3Signature, headers: Mapping[str, str]) -> "_Chunks | None":
    encodings = [each.strip() for each in headers.get("content-encoding", "").split(",")]
    if not signature.payload.startswith(_STREAMING):
        if _CHUNKED in encodings:
            raise S3Error("InvalidRequest", "An aws-chunked body needs a STREAMING value in x-amz-content-sha256.")
        return None
    if signature.payload not in (_SIGNED_STREAMING, _SIGNED_STREAMING + _WITH_TRAILER, _UNSIGNED_STREAMING):
        raise S3Error("NotImplemented", "This form of aws-chunked body is not supported here.")
    names = [each.strip().lower() for each in headers.get("x-amz-trailer", "").split(",") if each.strip()]
    has_trailer = signature.payload.endswith(_WITH_TRAILER)
    if bool(names) != has_trailer or len(names) > _MOST_TRAILERS or len(set(names)) < len(names):
        raise S3Error(
            "InvalidRequest", "x-amz-trailer does not match the trailer that x-amz-content-sha256 declares."
        )
    if not all(map(is_checksum, names)) or set(names) & headers.keys():
        raise S3Error("InvalidRequest", "A trailer may contain only checksums that are not in a header.")
    return _Chunks(signature if signature.payload != _UNSIGNED_STREAMING else None, tuple(names))


class _Chunks:
    """Decoder of an aws-chunked body; each chunk's signature covers the previous chunk's signature."""

    def __init__(self, signature: S3Signature | None, trailers: tuple[str, ...]) -> None:
        self.trailers = trailers
        self._signature = signature
        self._previous = signature.signature if signature else ""
        self._found: dict[str, str] = {}
        self._buffer, self._at = b"", 0
        self._left = self._n_small = 0
        self._claimed = ""
        self._hash = hashlib.sha256()
        self._state = "size"

    def take(self, piece: bytes) -> Iterator[bytes]:
        self._buffer, self._at = self._buffer[self._at :] + piece, 0
        while True:
            if self._state == "data":
                content = self._buffer[self._at : self._at + self._left]
                self._left -= len(content)
                self._at += len(content)
                if self._signature is not None:
                    self._hash.update(content)
                if content:
                    yield content
                if self._left:
                    return
                self._end_chunk()
                self._state = "line end"
            line = self._line()
            if line is None:
                return
            self._read(line)

    def finish(self) -> dict[str, str]:
        """Return the trailer; the body must be complete."""
        states = ("end", "signed end") if self._signature is not None and self.trailers else ("end", "trailer")
        is_whole = self._state in states and self._at == len(self._buffer)
        if not is_whole or self._found.keys() != set(self.trailers):
            raise S3Error("IncompleteBody", "The body ends before its last chunk or its trailer. Send it again.")
        return self._found

    def _line(self) -> bytes | None:
        start, end = self._at, self._buffer.find(b"\r\n", self._at, self._at + _LONGEST_LINE)
        if end < 0:
            if len(self._buffer) - start >= _LONGEST_LINE:
                raise _invalid()
            return None
        self._at = end + 2
        return self._buffer[start:end]

    def _read(self, line: bytes) -> None:
        if self._state == "line end":
            if line:
                raise _invalid()
            self._state = "size"
        elif self._state == "size":
            self._begin_chunk(line)
        elif self._state == "trailer":
            self._read_trailer(line.removesuffix(b"\n"))
        elif self._state == "signed end" and not line:
            self._state = "end"
        else:
            raise _invalid()  # something follows the end

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK.fullmatch(line)
        if match is None or (match[2] is None) != (self._signature is None):
            raise _invalid()
        self._left, self._claimed = int(match[1], 16), (match[2] or b"").decode()
        self._hash = hashlib.sha256()
        self._n_small += self._left < _SMALL_CHUNK
        if self._n_small > _MOST_SMALL_CHUNKS:
            raise S3Error("InvalidRequest", "The body has more than 1,000 chunks below 8 KB. Send larger chunks.")
        if self._left:
            self._state = "data"
        else:
            self._end_chunk()
            self._state = "trailer"

    def _end_chunk(self) -> None:
        self._check("PAYLOAD", (_EMPTY, self._hash.hexdigest()))

    def _check(self, what: str, hashes: tuple[str, ...]) -> None:
        if self._signature is None:
            return
        parts = (f"AWS4-HMAC-SHA256-{what}", self._signature.timestamp, self._signature.scope, self._previous)
        if not self._signature.signs("\n".join((*parts, *hashes)), self._claimed):
            raise S3Error("SignatureDoesNotMatch", "The signature of a chunk of the body does not match.")
        self._previous = self._claimed

    def _read_trailer(self, line: bytes) -> None:
        if not line:
            if self._signature is not None and self.trailers:
                raise S3Error("IncompleteBody", "The trailer has no signature.")
            self._state = "end"
            return
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise _invalid()
        name, value = match[1].decode().lower(), match[2].decode().strip()
        if name == "x-amz-trailer-signature" and self._signature is not None and self.trailers:
            lines = "".join(f"{each}:{self._found.get(each, '')}\n" for each in sorted(self.trailers))
            self._claimed = value
            self._check("TRAILER", (hashlib.sha256(lines.encode()).hexdigest(),))
            self._state = "signed end"
        elif name in self.trailers and name not in self._found:
            self._found[name] = value
        else:
            raise _invalid()


def _invalid() -> S3Error:
    return S3Error("InvalidRequest", "The aws-chunked body is malformed.")
