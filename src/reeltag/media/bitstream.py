"""What the first bytes of a compressed packet tell: whether decoding may start there, and whether others need it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import av
from av.packet import Packet

VideoPacket: TypeAlias = "Packet[av.VideoStream]"

# A key frame of these codecs needs nothing before it, and later frames in presentation order need nothing before it.
_CLEAN_KEYS = {
    "vp8", "vp9", "av1", "libdav1d", "libaom-av1", "mpeg4", "mpeg1video", "mpeg2video", "ffv1", "flv", "h263",
}  # fmt: skip
# Every packet of these stands alone.
_INTRA_ONLY = {
    "mjpeg", "png", "prores", "dnxhd", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "dvvideo", "jpeg2000", "v210",
}  # fmt: skip


def _units(data: memoryview, length_size: int) -> Iterator[memoryview]:
    """Yield the units of an H.264 or HEVC packet: behind lengths, or behind 00 00 01 where length_size is 0."""
    at = 0
    if length_size:
        while at + length_size < len(data):
            size = int.from_bytes(data[at : at + length_size], "big")
            at += length_size
            yield data[at : at + size]
            at += size
        return
    raw = bytes(data)
    at = raw.find(b"\0\0\1")
    while 0 <= at < len(raw) - 3:
        following = raw.find(b"\0\0\1", at + 3)
        yield data[at + 3 : following if following >= 0 else len(raw)]
        at = following


class PacketReader:
    """Reads a codec's packets without decoding them.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: the stream's header, which says how units are delimited.

    Attributes:
        carries_over: a packet held two pictures, the second of which the decoder shows with the next packet (DivX's
            packed bitstream); such a track is decoded from its start only.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self.codec = codec
        self.stands_alone = codec in _INTRA_ONLY
        self.carries_over = False
        self._length_size = 0
        header = extradata or b""
        if codec == "h264" and len(header) > 4 and header[0] == 1:
            self._length_size = (header[4] & 3) + 1
        elif codec == "hevc" and len(header) > 21 and header[0] == 1:
            self._length_size = (header[21] & 3) + 1

    def starts_clean(self, packet: VideoPacket) -> bool:
        """Tell whether decoding may start at this key packet with exact results for all frames shown after it.

        H.264: an IDR picture. An I picture with a recovery point is not enough, because pictures after it may still
        refer to pictures before it. HEVC: any random access picture. Unknown codecs: never.
        """
        if self.stands_alone:
            return True
        if self.codec in _CLEAN_KEYS:
            return packet.is_keyframe
        if not packet.is_keyframe or self.codec not in ("h264", "hevc"):
            return False
        for unit in _units(memoryview(packet), self._length_size):
            if len(unit) and self.codec == "h264" and 1 <= unit[0] & 31 <= 5:
                return unit[0] & 31 == 5
            if len(unit) > 1 and self.codec == "hevc" and (unit[0] >> 1) & 63 < 32:
                return 16 <= (unit[0] >> 1) & 63 <= 21
        return False

    def layer_and_use(self, packet: VideoPacket) -> tuple[int, bool]:
        """Return the temporal layer (0 for most) and whether pictures of that layer may refer to this one.

        A picture of the highest layer that is not referred to can be left out without changing any other. Where nothing
        is known, (0, True).
        """
        data = memoryview(packet)
        if self.codec == "h264":
            slices = [unit[0] for unit in _units(data, self._length_size) if len(unit) and 1 <= unit[0] & 31 <= 5]
            return 0, not slices or any(first & 0x60 for first in slices)
        if self.codec == "hevc":
            for unit in _units(data, self._length_size):
                if len(unit) > 2 and (kind := (unit[0] >> 1) & 63) < 32:
                    return (unit[1] & 7) - 1, kind > 14 or kind % 2 == 1
        if self.codec == "mpeg4":
            raw = bytes(data)
            at = raw.find(b"\0\0\1\xb6")
            self.carries_over |= raw.find(b"\0\0\1\xb6", at + 4) >= 0
            return 0, not (0 <= at < len(raw) - 4 and raw[at + 4] >> 6 == 2)
        return 0, True

    def is_shown(self, packet: VideoPacket) -> bool:
        """Tell whether the packet yields a picture; VP8 keeps hidden reference pictures in packets of their own."""
        return self.codec != "vp8" or packet.size == 0 or bool(memoryview(packet)[0] >> 4 & 1)
