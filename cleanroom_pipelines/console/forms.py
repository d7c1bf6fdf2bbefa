"""The bodies of forms: fields and uploaded files.

Lives here: reading urlencoded bodies, and multipart bodies as a stream whose files go to scratch.
Keep out: what forms mean (pages) and storing files encrypted (the data-room service).
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from cleanroom_pipelines.media.errors import InvalidRequestError, UploadTooLargeError
from cleanroom_pipelines.storage.vault import chunks_of

MAX_FIELD_BYTES = 64 << 10
_MAX_FIELDS, _MAX_FILES = 500, 8
_MAX_OTHER_BYTES = 1 << 20  # fields, headers, and what follows the last boundary


@dataclass
class FormFile:
    """A file of a form.

    Args:
        name: Its name on the sender's disk, without folders; empty if the user chose no file.
        stream: Its content, in scratch; deleted when the request ends.
        n_bytes: Its size.
        sha256: The hash of its content.
    """

    name: str
    stream: IO[bytes] = field(repr=False)
    n_bytes: int = 0
    sha256: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    def chunks(self) -> Iterator[bytes]:
        """Yield the file's content from its beginning."""
        self.stream.seek(0)
        yield from chunks_of(self.stream)


@dataclass
class Form:
    """The fields and files of a form; a missing field is empty.

    Args:
        fields: The fields' values, in order.
        files: The files, in order.
    """

    fields: list[tuple[str, str]] = field(default_factory=list, repr=False)
    files: list[tuple[str, FormFile]] = field(default_factory=list, repr=False)

    def text(self, name: str, default: str = "") -> str:
        """Return the first value of a field, without spaces at both ends."""
        return next((value.strip() for key, value in self.fields if key == name), default)

    def secret(self, name: str) -> str:
        """Return the first value of a field exactly as it was typed."""
        return next((value for key, value in self.fields if key == name), "")

    def texts(self, name: str) -> list[str]:
        """Return all values of a field, such as those of several checkboxes."""
        return [value for key, value in self.fields if key == name]

    def has(self, name: str) -> bool:
        """Whether the form has a field, such as a checked box."""
        return any(key == name for key, _ in self.fields)

    def number(self, name: str) -> int | None:
        """Return a field as a whole number without sign; None if it is empty or anything else."""
        text = self.text(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None

    def file(self, name: str) -> FormFile | None:
        """Return the file of a field; None if the user chose no file."""
        return next((file for key, file in self.files if key == name and file.name and file.n_bytes), None)

    def digest(self) -> bytes:
        """Return a hash of all fields and files; only equal forms have the same hash."""
        files = [(key, file.name, file.n_bytes, file.sha256.hexdigest()) for key, file in self.files]
        return hashlib.sha256(repr((self.fields, files)).encode(errors="surrogatepass")).digest()

    def close(self) -> None:
        """Delete the form's files in the scratch folder."""
        for _, file in self.files:
            file.stream.close()


def read_fields(body: bytes) -> Form:
    """Read an urlencoded body.

    Raises:
        InvalidRequestError: It is malformed.
    """
    try:
        text = body.decode("ascii")
        fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise _malformed() from None
    return Form(_checked(fields))


class FormReader:
    """Reads a multipart form as it arrives, and stores its files in the scratch folder.

    Args:
        content_type: The header Content-Type.
        scratch: Folder for the files, which have no names there.
        most_bytes: Largest size of all files together.

    Raises:
        InvalidRequestError: The header has no boundary.
    """

    def __init__(self, content_type: str, scratch: Path, most_bytes: int) -> None:
        self.form = Form()
        self._scratch, self._left = scratch, most_bytes
        self._bytes_left = most_bytes + _MAX_OTHER_BYTES
        self._header, self._value, self._disposition = bytearray(), bytearray(), b""
        self._name, self._text = "", bytearray()
        self._file: FormFile | None = None
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        callbacks: Mapping[str, Callable[..., None]] = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        self._is_complete = False
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except (FormParserError, ValueError):
            raise _malformed() from None
        if not 1 <= len(boundary) <= 70:
            raise _malformed()

    def take(self, chunk: bytes) -> None:
        """Read the next part of the body.

        Raises:
            InvalidRequestError: It is malformed.
            UploadTooLargeError: The files are larger than allowed.
        """
        self._bytes_left -= len(chunk)
        if self._bytes_left < 0:
            raise _malformed()
        try:
            self._parser.write(chunk)
        except (FormParserError, UnicodeDecodeError):
            raise _malformed() from None

    def finish(self) -> Form:
        """Return the form once its whole body has been read.

        Raises:
            InvalidRequestError: The body ends too early.
        """
        if not self._is_complete:
            raise _malformed()
        self.form.fields = _checked(self.form.fields)
        return self.form

    def _begin_part(self) -> None:
        self._disposition, self._text, self._file = b"", bytearray(), None

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _open_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options or len(self.form.fields) >= _MAX_FIELDS or len(self.form.files) >= _MAX_FILES:
            raise _malformed()
        self._name = options[b"name"].decode()
        if b"filename" in options:
            name = PurePosixPath(options[b"filename"].decode().replace("\\", "/")).name
            stream = tempfile.TemporaryFile(prefix="form-", dir=self._scratch)  # noqa: SIM115 - `Form.close`
            self._file = FormFile(name, stream)
            self.form.files.append((self._name, self._file))

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        n_bytes = end - start
        if self._file is None:
            self._text += data[start:end]
            if len(self._text) > MAX_FIELD_BYTES:
                raise _malformed()
            return
        self._left -= n_bytes
        if self._left < 0:
            raise UploadTooLargeError(
                "The file exceeds the server's upload limit.",
                remedy="Upload a smaller file, or ask the operator for a higher limit.",
            )
        self._file.stream.write(data[start:end])
        self._file.sha256.update(data[start:end])
        self._file.n_bytes += n_bytes

    def _end_part(self) -> None:
        if self._file is None:
            self.form.fields.append((self._name, self._text.decode()))

    def _end(self) -> None:
        self._is_complete = True


def _checked(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the fields with browsers' CR LF line breaks changed to LF; reject fields with a NUL character."""
    if any("\0" in name + value for name, value in fields):
        raise _malformed()
    return [(name, value.replace("\r\n", "\n")) for name, value in fields]


def _malformed() -> InvalidRequestError:
    return InvalidRequestError("The form is malformed or too large.", remedy="Go back and send it again.")
