"""A walk over the boxes of an MP4 or QuickTime file that finds cut files, encryption and references to other files."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]

_MAX_BOXES = 100_000  # more than any real file has at the levels that are visited
_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl"}
_ENCRYPTED = {b"encv": "video", b"drmi": "video", b"enca": "audio", b"drms": "audio"}


@dataclass
class BoxFacts:
    """What the boxes tell before FFmpeg sees the file.

    Attributes:
        cut: a top-level box runs past the end of the file.
        malformed: a box other than media data says "to the end of the file", which hides whatever follows.
        has_moov: the header box is there, whole or not.
        has_mdat: a box with media data is there.
        refers_elsewhere: a track's data lies in another file or address.
        encrypted: kinds of tracks (`video`, `audio`) whose sample entries are encrypted.
    """

    cut: bool = False
    malformed: bool = False
    has_moov: bool = False
    has_mdat: bool = False
    refers_elsewhere: bool = False
    encrypted: frozenset[str] = frozenset()


def _children(read_at: ReadAt, start: int, end: int) -> Iterator[tuple[bytes, int, int, bool]]:
    """Yield type, payload start, payload end and whether the box is whole, of each box in [start, end)."""
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", read_at(start, 8))
        header = 8
        if size == 1:
            extended = read_at(start + 8, 8)
            if len(extended) < 8:
                return
            size, header = struct.unpack(">Q", extended)[0], 16
        elif size == 0:  # to the end of what holds it
            size = end - start
        if size < header:
            return
        yield kind, start + header, min(start + size, end), start + size <= end
        start += size


def walk(read_at: ReadAt, size: int) -> BoxFacts:
    """Return the facts of a file of `size` bytes, read through `read_at(offset, count)`.

    Only the path to the data references and the sample entries is visited, and at most 100,000 boxes, so a file cannot
    make the walk long.
    """
    facts = BoxFacts()
    encrypted: set[str] = set()
    seen = 0
    pending = [(0, size, 0)]
    while pending:
        start, end, depth = pending.pop()
        for kind, first, last, whole in _children(read_at, start, end):
            seen += 1
            if seen > _MAX_BOXES:
                return facts
            if depth == 0:
                facts.cut |= not whole
                facts.malformed |= last == size and kind in (b"free", b"skip") and not any(read_at(first - 8, 4))
                facts.has_moov |= kind in (b"moov", b"moof")
                facts.has_mdat |= kind == b"mdat"
            if kind in _CONTAINERS and depth < 6:
                pending.append((first, last, depth + 1))
            elif kind == b"dref" and depth:
                # Flag 1 says "in this very file"; any other entry names a file or an address.
                for _, entry, _, _ in _children(read_at, first + 8, last):
                    flags = read_at(entry, 4)
                    facts.refers_elsewhere |= len(flags) == 4 and not flags[3] & 1
            elif kind == b"stsd" and depth:
                for entry_kind, _, _, _ in _children(read_at, first + 8, last):
                    if entry_kind in _ENCRYPTED:
                        encrypted.add(_ENCRYPTED[entry_kind])
        facts.encrypted = frozenset(encrypted)
    return facts
