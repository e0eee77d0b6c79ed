"""CRC-32C in numpy: the checksum of TFRecord files, at hundreds of megabytes a second without compiled code of our own.

A CRC is the remainder of the message, read as a polynomial over GF(2), by a fixed polynomial P. Long messages are
first *folded*: x^290 = x^136 + x^113 + x^107 + x^32 + 1 modulo P, and squaring keeps that true, so also with every
exponent times 64, 128, 256, ...: a 64-bit word at the front may be added (xor) to five words behind it and dropped.
That is five passes of xor over the message. What remains, at most 290 words, is looked up byte by byte in a table of
what a byte at each distance from the end adds to the remainder.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed: the lowest bit is sent first
FOLD_WORDS = 290
# A word is added to the words this many places behind it: 290 - (136, 113, 107, 32, 0).
FOLD_OFFSETS = (154, 177, 183, 258, 290)
WORD_BYTES = 8
_MASK = 0xFFFFFFFF


@cache
def byte_table() -> tuple[int, ...]:
    """Return the 256 remainders of one byte followed by 32 zero bits."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


@cache
def place_table() -> NDArray[np.uint32]:
    """Return (FOLD_WORDS * 8 * 256,): what a byte adds at a place counted from the front, at place * 256 + byte."""
    step = np.array(byte_table(), dtype=np.uint32)
    places = np.empty((FOLD_WORDS * WORD_BYTES, 256), dtype=np.uint32)
    places[-1] = step
    for place in range(len(places) - 2, -1, -1):
        after = places[place + 1]  # one more zero byte behind it
        places[place] = (after >> 8) ^ step[after & 0xFF]
    return places.reshape(-1)


@cache
def _place_offsets() -> NDArray[np.intp]:
    return np.arange(FOLD_WORDS * WORD_BYTES, dtype=np.intp) * 256


def _short(data: bytes) -> int:
    table, value = byte_table(), _MASK
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value ^ _MASK


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C (Castagnoli) of some bytes, as iSCSI (RFC 3720, appendix B.4) and TFRecord files use it."""
    size = len(data)
    if size <= 32:
        return _short(bytes(data))
    lead = -size % WORD_BYTES  # zeros in front change no remainder
    words = np.zeros((size + lead) // WORD_BYTES, dtype=np.uint64)
    octets = words.view(np.uint8)
    octets[lead:] = np.frombuffer(data, dtype=np.uint8)
    octets[lead : lead + 4] ^= 0xFF  # the register starts with all bits set
    return _remainder(_folded(words).view(np.uint8)) ^ _MASK


def _folded(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return at most `FOLD_WORDS` words with the same remainder; the input is overwritten."""
    scale = 1
    while len(words) > 2 * scale * FOLD_WORDS:
        scale *= 2
    while scale:
        while (surplus := len(words) - scale * FOLD_WORDS) > 0:
            front = min(surplus, scale * FOLD_OFFSETS[0])
            for offset in FOLD_OFFSETS:
                behind = words[scale * offset : scale * offset + front]
                np.bitwise_xor(behind, words[:front], out=behind)
            words = words[front:]
        scale //= 2
    return words


def _remainder(octets: NDArray[np.uint8]) -> int:
    places = _place_offsets()[len(_place_offsets()) - len(octets) :] + octets
    return int(np.bitwise_xor.reduce(place_table()[places]))


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C turned right by 15 bits plus a constant, the form that TFRecord files store."""
    return mask(crc32c(data))


def mask(value: int) -> int:
    """Return a CRC in its stored form."""
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & _MASK


def masked_crc32c_of_windows(octets: NDArray[np.uint8], size: int) -> NDArray[np.uint32]:
    """Return the masked CRC-32C of every run of `size` bytes: entry i is that of octets[i : i + size].

    Args:
        octets: (N,) bytes.
        size: at least 4.

    Returns:
        (N - size + 1,) uint32; empty when there are fewer bytes.
    """
    count = len(octets) - size + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint32)
    table = place_table().reshape(-1, 256)[-size:]
    total = np.zeros(count, dtype=np.uint32)
    for place in range(size):
        byte = octets[place : place + count]
        total ^= table[place][byte ^ 0xFF if place < 4 else byte]
    total ^= np.uint32(_MASK)
    return ((total >> np.uint32(15)) | (total << np.uint32(17))) + np.uint32(0xA282EAD8)
