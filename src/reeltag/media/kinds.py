"""What kind of file the first bytes say it is: the allow-list of formats, and the refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reeltag.errors import MediaReason

# FFmpeg's demuxers that read one self-contained file. Playlists (hls, dash, concat, sdp, ...), image sequences, text,
# devices and raw formats that match anything are left out on purpose.
ALLOWED_DEMUXERS = (
    "aac", "aiff", "amr", "apng", "asf", "au", "avi", "caf", "flac", "flv", "gif", "h264", "hevc", "ivf", "matroska",
    "mov", "mp3", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "ogg", "rm", "w64", "wav", "yuv4mpegpipe",
)  # fmt: skip

_REFERENCES = re.compile(
    rb"#EXTM3U|ffconcat|<MPD[\s>]|<smil[\s>]|<svg[\s>]|<asx[\s>]|\[playlist\]|\[Reference\]|<SmoothStreamingMedia"
    rb"|\Av=0\r?\n[a-z]=|RTSPtext|\A(?:https?|rtsp|rtmp|mms|file|concat|subfile):",
    re.IGNORECASE,
)
_MOV_TYPES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx", b"uuid"}
_STILLS = (b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"qoif", b"8BPS", b"\0\0\1\0", b"P5\n", b"P6\n", b"\xff\x0a")

_PREFIXES: tuple[tuple[bytes, tuple[str, ...]], ...] = (
    (b"\x1a\x45\xdf\xa3", ("matroska",)),
    (b"FLV\x01", ("flv",)),
    (b"OggS", ("ogg",)),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ("asf",)),
    (b"GIF87a", ("gif",)),
    (b"GIF89a", ("gif",)),
    (b"YUV4MPEG2 ", ("yuv4mpegpipe",)),
    (b"fLaC", ("flac",)),
    (b"caff", ("caf",)),
    (b"#!AMR", ("amr",)),
    (b".snd", ("au",)),
    (b"DKIF", ("ivf",)),
    (b"nut/multimedia container\0", ("nut",)),
    (b".RMF", ("rm",)),
    (b"riff\x2e\x91\xcf\x11", ("w64",)),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01", ("mxf",)),
    (b"ID3", ("mp3", "aac", "flac")),
    (b"\0\0\1\xba", ("mpeg",)),
    (b"\0\0\1\xb3", ("mpegvideo",)),
)


@dataclass(frozen=True)
class Kind:
    """The verdict: the demuxers that may open the file, or why none may.

    Attributes:
        demuxers: FFmpeg's short names; empty when refused.
        cut: the header states a length that the file does not have.
        refusal: the reason code, or None.
        detail: what was found, for the message.
    """

    demuxers: tuple[str, ...] = ()
    cut: bool = False
    refusal: MediaReason | None = None
    detail: str = ""


def _refuse(reason: MediaReason, detail: str) -> Kind:
    return Kind(refusal=reason, detail=detail)


def _matroska_is_cut(head: bytes, size: int) -> bool:
    """Tell whether the segment's stated size runs past the end of the file; False where it states none."""
    start = head.find(b"\x18\x53\x80\x67", 0, 4096)
    if start < 0 or start + 12 > len(head) or not head[start + 4]:
        return False
    first = head[start + 4]
    length = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (0xFF >> length)]) + head[start + 5 : start + 4 + length], "big")
    unknown = value == (1 << 7 * length) - 1
    return not unknown and start + 4 + length + value > size


def _riff(head: bytes, size: int) -> Kind:
    form = head[8:12]
    if form == b"WEBP":
        return _refuse("unsupported", "WebP pictures are not read; convert it to MP4, WebM or GIF")
    if form == b"WAVE":
        return Kind(("wav",))
    if form != b"AVI ":
        return _refuse("unsupported", f"RIFF files of the form {form!r} are not read; allowed: AVI, WAVE")
    if re.search(rb"strh....txts", head, re.DOTALL):
        # Such a stream is handed to a text demuxer, and has been used to smuggle a playlist past checks.
        return _refuse("unsafe_reference", "an AVI with an embedded text stream is not read; drop its subtitles")
    return Kind(("avi",), cut=int.from_bytes(head[4:8], "little") + 8 > size)


def _is_transport_stream(head: bytes) -> bool:
    """Tell whether 0x47 stands every 188 bytes (or 192 with time codes, 204 with parity) from an early offset on."""
    for packet in (188, 192, 204):
        for offset in range(min(packet, max(0, len(head) - packet * 2))):
            marks = head[offset : offset + packet * 40 : packet]
            if len(marks) >= 3 and marks.count(0x47) == len(marks):
                return True
    return False


def _elementary(head: bytes) -> tuple[str, ...]:
    """Return the demuxer of a raw H.264 or HEVC stream, told by its first unit: parameter set or delimiter."""
    start = head.find(b"\0\0\1", 0, 4)
    if start < 0 or len(head) < start + 6:
        return ()
    first, second = head[start + 3], head[start + 4]
    if first in (0x40, 0x42, 0x46, 0x4E) and second == 1:
        return ("hevc",)
    return ("h264",) if first & 0x80 == 0 and first & 0x1F in (6, 7, 9) else ()


def sniff(head: bytes, size: int) -> Kind:
    """Return what the first bytes (64 KiB or the whole file) of a file of `size` bytes allow."""
    for prefix, demuxers in _PREFIXES:
        if head.startswith(prefix):
            return Kind(demuxers, cut=demuxers == ("matroska",) and _matroska_is_cut(head, size))
    if head[4:8] in _MOV_TYPES:
        return Kind(("mov",))
    if head.startswith(b"RIFF"):
        return _riff(head, size)
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return Kind(("aiff",))
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        animated = 0 <= head.find(b"acTL") < head.find(b"IDAT")
        return Kind(("apng",)) if animated else _refuse("not_video", "a still PNG picture; give a video")
    if head.startswith(_STILLS):
        return _refuse("not_video", "a still picture; give a video")
    if _REFERENCES.search(head[:4096]):
        return _refuse("unsafe_reference", "it names other files or addresses; give the media file itself")
    if elementary := _elementary(head):
        return Kind(elementary)
    if len(head) > 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return Kind(("mp3", "aac"))
    if _is_transport_stream(head):
        return Kind(("mpegts",), cut=head[0] == 0x47 == head[188] and size % 188 != 0)
    allowed = "MP4, MOV, MKV, WebM, AVI, MPEG, TS, FLV, WMV, OGG, GIF, WAV, MP3, FLAC, M4A, ..."
    return _refuse("not_media", f"the first bytes {head[:8]!r} are no known media format; allowed: {allowed}")
