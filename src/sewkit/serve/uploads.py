"""Bodies of multipart/form-data: the file goes to disk as it comes, fields into memory, all within limits.

The client's name for the file is not looked at: no path is made of what a client sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from sewkit.serve.errors import ApiError
from sewkit.serve.settings import Settings

FILE_FIELD = "file"
MAX_FIELDS, MAX_FIELD_BYTES = 64, 2**16
MAX_FORM_BYTES = 2**20
"""Of a body beside its file."""
WRITE_BYTES = 2**18
"""Held in memory before they are written."""
DISCARD_BYTES, DISCARD_SECONDS = 16 * 2**20, 5.0
"""What is still read of a request that was refused, so that its client gets to read the answer."""


class Upload:
    """A body on its way: its fields, and whether its file has come."""

    def __init__(self, boundary: bytes, file: FileIO, max_bytes: int):
        self.fields: dict[str, list[str]] = {}
        self.has_file = False
        self.is_complete = False
        self._file, self._max_bytes = file, max_bytes
        self._num_file_bytes = self._num_other_bytes = 0
        self._unwritten = bytearray()
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None
        self._value = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def feed(self, data: bytes) -> None:
        """The next bytes of the body. Raises ApiError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise ApiError(400, f"the body is not valid multipart/form-data ({error})") from None
        if len(self._unwritten) >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what has come of the file. Raises ApiError where there is no room."""
        data, self._unwritten = self._unwritten, bytearray()
        try:
            await asyncio.to_thread(self._write, data)
        except OSError:
            raise ApiError(503, "the server has no room for uploads; try again later", code="no_room") from None

    def _write(self, data: bytearray) -> None:
        """All of it: where room gets short, a raw file takes a part and does not complain before the next call."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _begin_part(self) -> None:
        self._headers, self._name, self._value = {}, None, bytearray()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise ApiError(400, "a part of the body has no name; expected Content-Disposition: form-data; name=...")
        self._name = options[b"name"].decode("utf-8", "replace")
        if self._name == FILE_FIELD:
            if self.has_file:
                raise ApiError(400, "file is given more than once", param=FILE_FIELD)
            if b"filename" not in options and b"filename*" not in options:
                raise ApiError(400, "file: expected a file, with a filename", param=FILE_FIELD)
            self.has_file = True
        elif sum(map(len, self.fields.values())) >= MAX_FIELDS:
            raise ApiError(413, f"more than {MAX_FIELDS} fields")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self._num_file_bytes += end - start
            if self._num_file_bytes > self._max_bytes:
                raise too_large(self._max_bytes)
            self._unwritten += data[start:end]
            return
        self._num_other_bytes += end - start
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES or self._num_other_bytes > MAX_FORM_BYTES:
            raise ApiError(413, f"field is larger than {MAX_FIELD_BYTES} bytes", param=_printable(self._name))

    def _end_part(self) -> None:
        if self._name is not None and self._name != FILE_FIELD:
            try:
                value = self._value.decode()
            except UnicodeDecodeError:
                raise ApiError(400, "field is not UTF-8", param=_printable(self._name)) from None
            self.fields.setdefault(self._name, []).append(value)

    def _end(self) -> None:
        self.is_complete = True


def too_large(max_bytes: int) -> ApiError:
    """For an upload over the limit."""
    return ApiError(413, f"the file is larger than {max_bytes} bytes", param=FILE_FIELD, code="file_too_large")


class Body:
    """The body of a request, whose client may neither pause for long nor take forever."""

    def __init__(self, request: Request, settings: Settings):
        self._request, self._settings = request, settings
        self._is_over = False

    async def store(self, target: Path) -> dict[str, list[str]]:
        """Store the file in it at `target`; gives the other fields. Raises ApiError, ClientDisconnect."""
        boundary, most = _boundary(self._request), self._settings.max_upload_bytes
        length = self._request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > most + MAX_FORM_BYTES:
            raise too_large(most)
        with open(target, "wb", buffering=0) as file:
            upload = Upload(boundary, file, most)
            async for data in self._in_time():
                await upload.feed(data)
            await upload.flush()
        if not upload.is_complete:
            raise ApiError(400, "the body ends before its last boundary")
        if not upload.has_file:
            raise ApiError(400, "file: expected a recording, found none", param=FILE_FIELD)
        return upload.fields

    async def discard(self) -> None:
        """Read what is left, up to a limit: closed with data unread, a connection may lose its answer."""
        num_bytes = 0
        with anyio.move_on_after(DISCARD_SECONDS), suppress(ClientDisconnect):
            while not self._is_over and num_bytes < DISCARD_BYTES:
                num_bytes += len(await self._receive())

    async def _in_time(self) -> AsyncIterator[bytes]:
        loop, settings = asyncio.get_running_loop(), self._settings
        begun, num_bytes = loop.time(), 0
        while not self._is_over:
            behind = loop.time() - begun - num_bytes / settings.upload_bytes_per_second
            patience = settings.idle_seconds - max(behind, 0)
            patience = min(patience, begun + settings.upload_seconds - loop.time())
            try:
                data = await asyncio.wait_for(self._receive(), max(patience, 0))
            except (TimeoutError, asyncio.TimeoutError):
                self._is_over = True  # nothing more is waited for
                headers = {"connection": "close"}
                raise ApiError(408, "the upload takes too long", code="upload_timeout", headers=headers) from None
            num_bytes += len(data)
            yield data

    async def _receive(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._is_over = not message.get("more_body", False)
        return message.get("body", b"")


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(
            415, "expected a body of type multipart/form-data, with a boundary", code="unsupported_media_type"
        )
    return options[b"boundary"]


def _printable(name: str | None) -> str:
    return "".join(character for character in name or "" if character.isprintable())[:64]
