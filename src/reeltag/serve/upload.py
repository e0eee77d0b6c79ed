"""Uploads: a multipart body goes to disk while it comes, within its limit, under names of our own."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from reeltag.serve.refusal import Refused, ending

MIB = 1 << 20
MAX_FILES = 64
FILE_FIELD, FIELDS = "file", ("top",)
_MAX_FIELD_BYTES = 256
_MAX_NAME = 255
_WRITE_BYTES = 1 * MIB
_LOOK_S = 0.25  # how often a client that sends nothing is left to look whether the service ends
_FRAME_BYTES = 1 * MIB  # boundaries, part headers and fields around the files


class Disconnected(Exception):
    """The client went away."""


@dataclass(frozen=True)
class Received:
    """A file that was uploaded.

    Attributes:
        name: the last part of the name that the client gave; for answers alone.
        path: where it lies.
    """

    name: str
    path: Path


class Body:
    """The body of a request, chunk by chunk.

    Args:
        request: of which nothing has been read.
        idle_s: how long a client may send nothing.
        stopping: whether the service ends, and the rest of the body is of no use.
    """

    def __init__(self, request: Request, idle_s: float, stopping: Callable[[], bool]) -> None:
        self._receive, self._idle_s, self._stopping = request.receive, idle_s, stopping
        self.headers = request.headers
        self.ended = False

    async def next(self) -> bytes:
        """Return the next bytes; `ended` tells whether they are the last.

        Raises:
            Disconnected: the client went away.
            Refused: 408, nothing came for too long; 503, the service ends.
        """
        message = None
        silent_s = 0.0
        while message is None:
            if self._stopping():
                raise ending()
            if silent_s >= self._idle_s:
                self.ended = True  # nothing more is waited for
                text = f"nothing came for {self._idle_s:g} s; send the file again"
                raise Refused(408, "timeout", text, {"Connection": "close"})
            wait_s = min(_LOOK_S, self._idle_s)
            try:
                async with asyncio.timeout(wait_s):
                    message = await self._receive()
            except TimeoutError:
                silent_s += wait_s
        if message["type"] == "http.disconnect":
            raise Disconnected
        self.ended = not message.get("more_body", False)
        data: bytes = message.get("body", b"")
        return data


@dataclass
class _Part:
    """A part of the body that is being read: a file where it has a path, else a field."""

    name: str
    file: BinaryIO | None = None
    value: bytearray = field(default_factory=bytearray)


class Form:
    """What a multipart body holds, filled in by the callbacks of its parser.

    Attributes:
        files: in the order of the body.
        fields: text by name.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._room = limit_bytes
        self.files: list[Received] = []
        self.fields: dict[str, str] = {}
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._part: _Part | None = None
        self._opened: list[BinaryIO] = []
        self._pieces: list[tuple[BinaryIO, bytes]] = []
        self.pending_bytes = 0
        self.whole = False

    async def read(self, body: Body) -> None:
        """Read a body to its end; what is large is written by other threads.

        Raises:
            Disconnected: the client went away.
            Refused: 400 or 415, no multipart body of our fields; 408; 413, too large; 507, the disk is full.
        """
        boundary = _boundary(body)
        if int(body.headers.get("content-length", 0)) > self._limit + _FRAME_BYTES:
            raise too_large(self._limit)
        received = 0
        try:
            parser = MultipartParser(boundary, {
                "on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._end,
                "on_header_field": self._header_name, "on_header_value": self._header_value,
                "on_header_end": self._header_end, "on_headers_finished": self._open, "on_end": self._finish,
            })  # fmt: skip
            while not body.ended:
                chunk = await body.next()
                received += len(chunk)
                if received > self._limit + _FRAME_BYTES:
                    raise too_large(self._limit)
                parser.write(chunk)
                if self.pending_bytes >= _WRITE_BYTES:
                    await asyncio.to_thread(self._write)
            self._write()  # less than that takes less time than to hand it over
        except FormParserError as error:
            raise Refused(400, "bad_request", f"the body is no multipart form: {error}; send it again") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Refused(507, "disk_full", "the disk of the service is full; try again later") from None
        finally:
            for file in self._opened:
                file.close()
        if not self.whole:
            raise Refused(400, "bad_request", "the body ends before its last boundary; send it again")

    def _write(self) -> None:
        for file, data in self._pieces:
            file.write(data)
        self._pieces.clear()
        self.pending_bytes = 0

    # ------------------------------------------------------------------ callbacks

    def _begin(self) -> None:
        self._disposition = b""
        self._header_end()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        allowed = f"allowed: {FILE_FIELD} (a file, once or more), {', '.join(FIELDS)}"
        if b"filename" not in options:
            if name not in FIELDS:
                raise Refused(400, "bad_request", f"there is no text field {name[:80]!r}; {allowed}")
            self._part = _Part(name)
            return
        if name != FILE_FIELD:
            raise Refused(400, "bad_request", f"there is no field of files {name[:80]!r}; {allowed}")
        if len(self.files) == MAX_FILES:
            raise Refused(
                413, "too_many_files", f"more than {MAX_FILES} files in a request; send the others in another"
            )
        path = self._folder / str(len(self.files))
        file = path.open("xb")
        self._opened.append(file)
        self.files.append(Received(last_part(options[b"filename"]), path))
        self._part = _Part(name, file)

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        if self._part.file is not None:
            self._room -= end - start
            if self._room < 0:
                raise too_large(self._limit)
            self._pieces.append((self._part.file, data[start:end]))
            self.pending_bytes += end - start
            return
        self._part.value += data[start:end]
        if len(self._part.value) > _MAX_FIELD_BYTES:
            raise Refused(400, "bad_request", f"{self._part.name} is longer than {_MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        assert self._part is not None
        if self._part.file is None:
            self.fields[self._part.name] = self._part.value.decode("utf-8", "replace")

    def _finish(self) -> None:
        self.whole = True


def _boundary(body: Body) -> bytes:
    given = body.headers.get("content-type", "")
    kind, options = parse_options_header(given)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(
            415,
            "bad_request",
            f"Content-Type is {given[:80]!r}; send multipart/form-data with a file in {FILE_FIELD!r}",
        )
    return options[b"boundary"]


def too_large(limit_bytes: int) -> Refused:
    """Return the refusal of an upload above a limit."""
    allowed = f"at most {limit_bytes / MIB:g} MiB (`reeltag serve --max-mib`)"
    return Refused(413, "too_large", f"the upload is larger than is taken here, {allowed}; send a shorter part")


def last_part(filename: bytes) -> str:
    """Return the last part of a name as a client gave it, which never becomes a path; `upload` where there is none."""
    # Browsers write a quotation mark as %22, so that it does not end the name.
    name = filename.decode("utf-8", "replace").replace("%22", '"')
    return re.split(r"[/\\]", name)[-1][:_MAX_NAME] or "upload"
