"""tf.train.Example and SequenceExample, read and written without TensorFlow: protocol buffers by their wire format.

The messages: Example {1: Features}; SequenceExample {1: Features context, 2: FeatureLists}; Features {1: map of name to
Feature}; FeatureLists {1: map of name to FeatureList}; FeatureList {1: repeated Feature}; Feature {1: bytes, 2: floats,
3: int64s}, each of them a message with the values in field 1. A map entry is a message {1: key, 2: value}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Value = list[bytes] | NDArray[np.float32] | NDArray[np.int64]


def read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return the base-128 number at `place` and the place behind it; ValueError when it is cut or above 64 bits."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number is cut off or longer than 64 bits")


def fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the fields of a message: their numbers, and bytes, or the value of a varint.

    Raises:
        ValueError: the message is cut off or has a wire type that proto3 does not.
    """
    place = 0
    while place < len(data):
        tag, place = read_varint(data, place)
        wire = tag & 7
        if wire == _VARINT:
            value, place = read_varint(data, place)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            size, place = read_varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} is not one of proto3")
        if place + size > len(data):
            raise ValueError(f"a field of {size} bytes goes over the end of its message by {place + size - len(data)}")
        yield tag >> 3, data[place : place + size]
        place += size


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    for found, value in fields(data):
        if found == number:
            if isinstance(value, int):
                raise ValueError(f"field {number} holds a number where a message belongs")
            yield value


def _entries(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Yield the entries of a map from names to messages, field 1 of a message."""
    for entry in _messages(data, 1):
        key, values = b"".join(_messages(entry, 1)), list(_messages(entry, 2))
        # Parts of one message, if ever it is split, are joined; the usual single part is not copied.
        yield key.decode(), values[0] if len(values) == 1 else memoryview(b"".join(values))


def _varints(data: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(data):
        value, place = read_varint(data, place)
        numbers.append(value)
    return numbers


def decode_feature(data: memoryview) -> Value:
    """Return the values of a Feature: a list of bytes, float32 (N,) or int64 (N,); an empty list when it has none."""
    value: Value = []
    for kind, content in fields(data):
        if isinstance(content, int):
            raise ValueError(f"field {kind} of a feature holds a number where a list belongs")
        if kind == 1:
            value = [bytes(item) for item in _messages(content, 1)]
        elif kind == 2:  # packed, or one fixed32 field a number: the bytes are the same
            value = np.frombuffer(b"".join(_messages(content, 1)), dtype="<f4")
        elif kind == 3:
            numbers: list[int] = []
            for number, item in fields(content):
                if number == 1:
                    numbers += [item] if isinstance(item, int) else _varints(item)
            value = np.array(numbers, dtype=np.uint64).astype(np.int64)  # negative numbers are written as 2^64 + n
    return value


def decode_example(data: bytes | memoryview) -> dict[str, Value]:
    """Return the features of a tf.train.Example by name; ValueError when the bytes are none."""
    found: dict[str, Value] = {}
    for features in _messages(memoryview(data), 1):
        found.update({name: decode_feature(value) for name, value in _entries(features)})
    return found


def decode_sequence(data: bytes | memoryview) -> tuple[dict[str, Value], dict[str, memoryview]]:
    """Return the context of a tf.train.SequenceExample, decoded, and its feature lists by name, for `decode_frames`."""
    lists: dict[str, memoryview] = {}
    for message in _messages(memoryview(data), 2):
        lists.update(_entries(message))
    return decode_example(data), lists


def decode_frames(data: memoryview) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Return a FeatureList as (T, D): uint8 where a frame is one byte string, float32 where it is a list of floats.

    Raises:
        ValueError: frames differ in width or kind, or are integers.
    """
    first = next(_messages(data, 1), memoryview(b""))
    kind = next((number for number, _ in fields(first)), 1)
    return float_frames(data) if kind == 2 else byte_frames(data)


def byte_frames(data: memoryview) -> NDArray[np.uint8]:
    """Return the FeatureList of one byte string a frame as (T, D); (0, 0) without frames.

    Frames of one width have equal headers, so the list is a matrix of equal rows: it is cut as one, after a
    comparison of all headers with what they must be. Anything else is read field by field.

    Raises:
        ValueError: the bytes are no such list, or its frames differ in width.
    """
    first = next(_messages(data, 1), memoryview(b""))
    width = next((len(content) for items in _messages(first, 1) for content in _messages(items, 1)), 0)
    head = np.frombuffer(_frame_head(width), dtype=np.uint8)
    if width and len(data) % (len(head) + width) == 0:
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, len(head) + width)
        if (rows[:, : len(head)] == head).all():
            return rows[:, len(head) :]
    frames = [decode_feature(frame) for frame in _messages(data, 1)]
    contents = [frame[0] if isinstance(frame, list) and len(frame) == 1 else None for frame in frames]
    widths = sorted({-1 if content is None else len(content) for content in contents})
    if not frames:
        return np.zeros((0, 0), dtype=np.uint8)
    if len(widths) > 1 or widths[0] < 0:
        raise ValueError(f"frames need one byte string each, all of one length; found lengths {widths} (-1: none)")
    return np.frombuffer(b"".join(content or b"" for content in contents), dtype=np.uint8).reshape(len(frames), -1)


def float_frames(data: memoryview) -> NDArray[np.float32]:
    """Return the FeatureList of floats as (T, D); ValueError when frames differ in width or hold no floats."""
    frames = [decode_feature(frame) for frame in _messages(data, 1)]
    if any(isinstance(frame, list) or frame.dtype != np.float32 for frame in frames):
        raise ValueError("frames of floats are mixed with others")
    if len({len(frame) for frame in frames}) > 1:
        raise ValueError(f"frames differ in width: {sorted({len(frame) for frame in frames})}")
    return np.array(frames, dtype=np.float32).reshape(len(frames), -1)


def write_varint(value: int) -> bytes:
    """Return a number in base 128, least significant digits first; negative ones as 2^64 + n."""
    value &= (1 << 64) - 1
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _field(number: int, content: bytes) -> bytes:
    return write_varint(number << 3 | _BYTES) + write_varint(len(content)) + content


def _frame_head(width: int) -> bytes:
    """Return what stands before the bytes of a frame: feature, byte list and string, each with its length."""
    string = write_varint(1 << 3 | _BYTES) + write_varint(width)
    items = write_varint(1 << 3 | _BYTES) + write_varint(len(string) + width) + string
    return write_varint(1 << 3 | _BYTES) + write_varint(len(items) + width) + items


def encode_feature(value: Sequence[bytes] | NDArray[np.floating] | NDArray[np.integer]) -> bytes:
    """Return a Feature of byte strings, of floats (float32) or of integers (int64), as TensorFlow packs them."""
    if not isinstance(value, np.ndarray):
        return _field(1, b"".join(_field(1, bytes(item)) for item in value))
    if np.issubdtype(value.dtype, np.floating):
        return _field(2, _field(1, value.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(write_varint(int(number)) for number in value)))


def _encode_map(entries: Mapping[str, bytes]) -> bytes:
    return b"".join(_field(1, _field(1, name.encode()) + _field(2, value)) for name, value in entries.items())


def encode_example(features: Mapping[str, Sequence[bytes] | NDArray[np.floating] | NDArray[np.integer]]) -> bytes:
    """Return a tf.train.Example of features by name."""
    return _field(1, _encode_map({name: encode_feature(value) for name, value in features.items()}))


def encode_sequence(
    context: Mapping[str, Sequence[bytes] | NDArray[np.floating] | NDArray[np.integer]],
    frames: Mapping[str, NDArray[np.uint8]],
) -> bytes:
    """Return a tf.train.SequenceExample of a context and of uint8 (T, D) frames by name."""
    lists = {}
    for name, matrix in frames.items():
        if matrix.dtype != np.uint8 or matrix.ndim != 2:
            raise ValueError(f"frames are uint8 (T, D), got {matrix.dtype} {matrix.shape} for {name!r}")
        head = np.frombuffer(_frame_head(matrix.shape[1]), dtype=np.uint8)
        lists[name] = np.concatenate([np.tile(head, (len(matrix), 1)), matrix], axis=1).tobytes()
    return encode_example(context) + _field(2, _encode_map(lists))
