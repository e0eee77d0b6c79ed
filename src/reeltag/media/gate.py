"""The gate before the decoder: only a regular, readable file of an allowed kind and size gets through."""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from reeltag.errors import MediaError, MediaReason
from reeltag.media.boxes import BoxFacts, walk
from reeltag.media.kinds import sniff
from reeltag.media.limits import DEFAULT_LIMITS, Limits

MediaSource = str | Path | bytes | BinaryIO

_HEAD_BYTES = 64 << 10
_OS_REASONS: dict[int, MediaReason] = {
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EISDIR: "not_a_file",
    errno.ENXIO: "not_a_file",  # a socket, or a pipe without a writer
}


class Cursor(io.RawIOBase):
    """A read position in an admitted file; it carries no name, so nothing can be guessed from one."""

    def __init__(self, admitted: Admitted) -> None:
        self._admitted = admitted
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, the position or the end; return the new offset."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._admitted.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, none at the end."""
        count = self._admitted.size - self._position if size < 0 else size
        data = self._admitted.read_at(self._position, max(0, count))
        self._position += len(data)
        return data


@dataclass
class Admitted:
    """A source that passed the gate: what FFmpeg is allowed to read, and nothing else.

    Attributes:
        label: what the caller named it, for messages.
        size: bytes.
        demuxers: FFmpeg's names of the formats that the first bytes allow.
        cut: the file ends before its own structure says so.
        boxes: what an MP4 or QuickTime file's boxes tell, else empty facts.
    """

    label: str
    size: int
    demuxers: tuple[str, ...] = ()
    cut: bool = False
    boxes: BoxFacts = field(default_factory=BoxFacts)
    _descriptor: int | None = None
    _data: bytes = b""

    def read_at(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes from `offset`."""
        if self._descriptor is None:
            return self._data[offset : offset + count]
        return os.pread(self._descriptor, count, offset)

    def cursor(self) -> Cursor:
        """Return a new read position at the start; all cursors share the one open file."""
        return Cursor(self)

    def error(self, reason: MediaReason, detail: str) -> MediaError:
        """Return the error for this source, to be raised."""
        return MediaError(reason, self.label, detail)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open_file(path: str, limits: Limits) -> tuple[int, int]:
    """Return descriptor and size of a regular file; look before opening, and never block on a pipe or a device."""

    def check(status: os.stat_result) -> int:
        if not stat.S_ISREG(status.st_mode):
            raise MediaError("not_a_file", path, "it is a folder, a pipe, a socket or a device; give a regular file")
        if status.st_size == 0:
            raise MediaError("empty", path, "it has 0 bytes; copy or download it again")
        if status.st_size > limits.max_bytes:
            allowed = f"at most {limits.max_bytes} (Limits.max_bytes)"
            raise MediaError("too_large", path, f"{status.st_size} bytes, {allowed}")
        return status.st_size

    try:
        check(os.stat(path))
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        number = getattr(error, "errno", None) or errno.ENOENT
        raise MediaError(_OS_REASONS.get(number, "not_found"), path, f"{error.args[-1]}; check the path") from None
    try:
        return descriptor, check(os.fstat(descriptor))  # again: the name may point elsewhere by now
    except BaseException:
        os.close(descriptor)
        raise


def admit(source: MediaSource, limits: Limits = DEFAULT_LIMITS) -> Admitted:
    """Return the source if it is a regular file (or bytes) of an allowed kind and size.

    Args:
        source: a path, the bytes of a file, or an object with `read` (a member of a shard), which is read whole.
        limits: see `Limits`; `max_bytes` is checked here.

    Raises:
        MediaError: not_found, permission_denied, not_a_file, empty, too_large, not_media, not_video (a still picture),
            unsupported, unsafe_reference (the file names other files or addresses), encrypted, truncated or corrupt
            (an MP4 without its header box).
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        descriptor, size = _open_file(path, limits)
        admitted = Admitted(path, size, _descriptor=descriptor)
    else:
        data = source if isinstance(source, bytes) else source.read(limits.max_bytes + 1)
        admitted = Admitted(f"<{len(data)} bytes>", len(data), _data=data)
        if not data:
            raise admitted.error("empty", "0 bytes; give the bytes of a media file")
        if len(data) > limits.max_bytes:
            raise admitted.error("too_large", f"more than {limits.max_bytes} bytes (Limits.max_bytes)")
    try:
        _inspect(admitted)
    except BaseException:
        admitted.close()
        raise
    return admitted


def _inspect(admitted: Admitted) -> None:
    """Fill in what the first bytes and the boxes tell, or raise MediaError."""
    head = admitted.read_at(0, _HEAD_BYTES)
    kind = sniff(head, admitted.size)
    if kind.refusal is not None:
        raise admitted.error(kind.refusal, kind.detail)
    admitted.demuxers = kind.demuxers
    admitted.cut = kind.cut
    if kind.demuxers == ("flv",):
        admitted.cut = not _flv_ends_whole(admitted)
    if kind.demuxers != ("mov",):
        return
    facts = admitted.boxes = walk(admitted.read_at, admitted.size)
    admitted.cut = facts.cut
    if facts.refers_elsewhere:
        raise admitted.error("unsafe_reference", "a track's data lies in another file; merge it in")
    if "video" in facts.encrypted:
        raise admitted.error("encrypted", "the video track is encrypted; give a file without protection")
    if not facts.has_moov:
        if facts.cut or not (facts.has_mdat or facts.malformed):
            raise admitted.error("truncated", "the file ends before its header box (moov); download or copy it again")
        raise admitted.error("corrupt", "no header box (moov) is there; the recording was not closed")


def _flv_ends_whole(admitted: Admitted) -> bool:
    """Tell whether the file ends with a whole tag: its last four bytes repeat the size of the tag before them."""
    size = int.from_bytes(admitted.read_at(max(0, admitted.size - 4), 4), "big")
    tag = admitted.read_at(admitted.size - 4 - size, 4) if 11 <= size <= admitted.size - 13 else b""
    return len(tag) == 4 and int.from_bytes(tag[1:], "big") + 11 == size
