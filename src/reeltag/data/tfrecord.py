"""TFRecord files without TensorFlow: both checksums of a record are compared, a damaged one is told and skipped."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from reeltag.data.crc32c import masked_crc32c, masked_crc32c_of_windows
from reeltag.errors import StoreError
from reeltag.store.atomic import atomic_path

HEAD_BYTES = 12  # length (uint64) and its checksum (uint32), little-endian
TAIL_BYTES = 4  # checksum of the content
_SCAN_BYTES = 1 << 20


@dataclass(frozen=True)
class Damage:
    """A place in a file that could not be read.

    Attributes:
        path: the file.
        offset: byte at which the damaged record starts.
        message: what is wrong with it.
    """

    path: str
    offset: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}, byte {self.offset}: {self.message}"


@dataclass(frozen=True)
class Record:
    """The content of one record and the byte at which it starts in its file."""

    offset: int
    data: bytes


OnDamage = Callable[[Damage], None]


def fail(damage: Damage) -> None:
    """Raise StoreError for the first damage: what readers do when nobody takes the reports."""
    raise StoreError(f"{damage}; download the file again, or pass `on_damage` to read the rest of it")


def read_records(
    path: str | Path, *, part: int = 0, parts: int = 1, on_damage: OnDamage = fail, check: bool = True
) -> Iterator[Record]:
    """Yield the records of a file in order.

    A record whose content does not match its checksum is reported and skipped. Where a length does not match its
    checksum, nobody knows where the next record starts: the file is searched, byte by byte, for the next record whose
    checksums both match.

    Args:
        path: the file.
        part: of `parts`: of the readable lengths, take every `parts`-th record from number `part` on. The parts
            together give every record once; a lost place is reported by part 0 alone.
        parts: at least 1.
        on_damage: called for each damage; the default raises StoreError.
        check: compare the contents' checksums too.

    Raises:
        StoreError: the file cannot be opened.
        ValueError: `part` is not in [0, parts).
    """
    if not 0 <= part < parts:
        raise ValueError(f"part must be in [0, parts), got {part} of {parts}")
    name = str(path)
    try:
        with open(path, "rb") as file:
            yield from _records(file, name, part, parts, on_damage, check)
    except OSError as error:
        raise StoreError(f"{name}: {error.strerror or error}") from error


def _records(file: BinaryIO, name: str, part: int, parts: int, on_damage: OnDamage, check: bool) -> Iterator[Record]:
    size = os.fstat(file.fileno()).st_size
    offset, number = 0, 0
    while offset < size:
        length, problem = _length_at(file, offset, size)
        if problem:
            found = _next_whole_record(file, offset + 1, size)
            if part == 0:
                rest = "no whole record behind it" if found is None else f"the next whole record is at byte {found}"
                on_damage(Damage(name, offset, f"{problem}; {rest}"))
            if found is None:
                return
            offset = found
            continue
        if number % parts == part:
            data = file.read(length + TAIL_BYTES)
            (expected,) = struct.unpack_from("<I", data, length)
            data = data[:length]
            if check and masked_crc32c(data) != expected:
                on_damage(Damage(name, offset, f"the content ({length} bytes) does not match its checksum"))
            else:
                yield Record(offset, data)
        number += 1
        offset += HEAD_BYTES + length + TAIL_BYTES
        if file.tell() != offset:
            file.seek(offset)


def _length_at(file: BinaryIO, offset: int, size: int) -> tuple[int, str]:
    """Return the length of the record at `offset`, the file standing behind it, and what is wrong, if anything."""
    if file.tell() != offset:
        file.seek(offset)
    head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return 0, f"the file ends {len(head)} bytes into a record"
    length, expected = struct.unpack("<QI", head)
    if masked_crc32c(head[:8]) != expected:
        return 0, "the length does not match its checksum"
    if offset + HEAD_BYTES + length + TAIL_BYTES > size:
        return (
            0,
            f"the record has {length} bytes and the file ends {size - offset - HEAD_BYTES} bytes behind its length",
        )
    return length, ""


def _next_whole_record(file: BinaryIO, start: int, size: int) -> int | None:
    """Return the offset of the first record from `start` on whose length and content match their checksums."""
    while start + HEAD_BYTES + TAIL_BYTES <= size:
        file.seek(start)
        window = np.frombuffer(file.read(_SCAN_BYTES + HEAD_BYTES - 1), dtype=np.uint8)
        computed = masked_crc32c_of_windows(window[:-TAIL_BYTES], 8)
        stored = np.lib.stride_tricks.sliding_window_view(window[8:], 4).copy().view("<u4")[:, 0]
        for place in np.flatnonzero(computed == stored):
            offset = start + int(place)
            length, problem = _length_at(file, offset, size)
            if not problem:
                data = file.read(length + TAIL_BYTES)
                if masked_crc32c(data[:length]) == struct.unpack_from("<I", data, length)[0]:
                    return offset
        start += len(window) - HEAD_BYTES + 1
    return None


def write_records(path: str | Path, contents: Iterable[bytes]) -> int:
    """Write a TFRecord file, whole or not at all, and return the number of records."""
    count = 0
    with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        for data in contents:
            head = struct.pack("<Q", len(data))
            file.write(head + struct.pack("<I", masked_crc32c(head)) + data + struct.pack("<I", masked_crc32c(data)))
            count += 1
    return count
