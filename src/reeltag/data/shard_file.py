"""One packed shard: a plain tar written member by member, listed with distrust, and the arrays inside it."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reeltag.errors import StoreError

BLOCK_BYTES = 512
_MAX_MEMBERS = 10_000_000


@dataclass(frozen=True)
class Member:
    """One file inside a tar: `offset` is where its bytes start, both counted in bytes."""

    name: str
    offset: int
    num_bytes: int


class ShardWriter:
    """Writes one tar file member by member and knows its SHA-256 at the end; equal input gives equal bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Append a member and return the offset of its first byte."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        start = self.position
        self._write(data)
        self._write(bytes(-len(data) % BLOCK_BYTES))
        return start

    def finish(self) -> str:
        """Write the end of the archive, sync it to disk and return the SHA-256 as hex."""
        self._write(bytes(2 * BLOCK_BYTES))
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.position += len(data)


def scan_shard(path: Path) -> list[Member]:
    """List the members of a tar after checking that each is a plain file with a safe name that lies inside the archive.

    Raises:
        StoreError: not a plain tar, empty, truncated, or a member that is a link, device, sparse or listed twice, or
            whose name leaves the folder. Nothing is ever unpacked.
    """
    num_bytes = path.stat().st_size
    members: dict[str, Member] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise StoreError(f"{path}: member {info.name!r} is no plain file; a shard holds plain files alone")
                parts = re.split(r"[/\\]", info.name)
                if info.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in info.name:
                    raise StoreError(f"{path}: member {info.name!r} leaves the folder; this is not a shard to trust")
                if info.offset_data + info.size > num_bytes:
                    raise StoreError(
                        f"{path}: member {info.name!r} ends at byte {info.offset_data + info.size} of {num_bytes}; "
                        "the shard is truncated or lies about sizes"
                    )
                if info.name in members:
                    raise StoreError(f"{path}: member {info.name!r} occurs twice")
                if len(members) >= _MAX_MEMBERS:
                    raise StoreError(f"{path}: more than {_MAX_MEMBERS} members; split it into smaller shards")
                members[info.name] = Member(info.name, info.offset_data, info.size)
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise StoreError(f"{path}: not a plain tar that can be read ({error}); pack or download it again") from error
    if not members:
        raise StoreError(f"{path}: no samples in this tar; pack or download it again")
    return list(members.values())


def read_npy(view: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array of a .npy member without copying it; ValueError unless it has exactly this shape and type."""
    if bytes(view[:8]) != b"\x93NUMPY\x01\x00":
        raise ValueError("no array of format 1.0")
    (length,) = struct.unpack_from("<H", view, 8)
    # Compared with the one header that such an array has: nothing in the file is parsed, let alone unpickled.
    if bytes(view[: 10 + length]) != npy_header(shape, dtype):
        raise ValueError(f"not an array of {shape} {dtype}")
    count = int(np.prod(shape))
    if 10 + length + count * dtype.itemsize > len(view):
        raise ValueError("the array is cut off")
    return np.frombuffer(view, dtype, count, 10 + length).reshape(shape)


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return the header of a .npy file, format 1.0, in C order; the data begins at a multiple of 64 bytes."""
    text = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    padding = -(10 + len(text) + 1) % 64
    body = (text + " " * padding + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body
