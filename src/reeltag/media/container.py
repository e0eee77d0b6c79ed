"""Opening an admitted file with FFmpeg: nothing else can be opened, one thread, errors become reason codes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
from av.container.input import InputContainer
from av.error import FFmpegError

from reeltag.errors import MediaError, MediaReason
from reeltag.media.gate import Admitted, MediaSource, admit
from reeltag.media.kinds import ALLOWED_DEMUXERS
from reeltag.media.limits import DEFAULT_LIMITS, Limits

# FFmpeg tells of damage that it conceals in its log alone, so the log is listened to, around every call.
av.logging.set_level(av.logging.INFO)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())

_BUFFER_BYTES = 128 << 10


@contextmanager
def heard() -> Iterator[list[tuple[int, str, str]]]:
    """Collect FFmpeg's messages of this thread as (level, who, text)."""
    with av.logging.Capture() as messages:
        yield messages


def complaints(messages: list[tuple[int, str, str]]) -> list[str]:
    """Return what among the messages tells of damage: the errors, and the notes that pictures were patched up."""
    return [text.strip() for level, _, text in messages if level <= av.logging.ERROR or text.startswith("concealing")]


class Deadline:
    """The moment at which a call has taken too long."""

    def __init__(self, admitted: Admitted, limits: Limits) -> None:
        self._admitted = admitted
        self._limit_s = limits.timeout_s
        self._end = time.monotonic() + limits.timeout_s

    def renew(self) -> None:
        """Count from now on: what is handed out piece by piece may take this long for each piece."""
        self._end = time.monotonic() + self._limit_s

    def check(self) -> None:
        """Raise MediaError `timeout` when the time is over."""
        if time.monotonic() > self._end:
            raise self._admitted.error("timeout", f"took more than {self._limit_s} s (Limits.timeout_s)")


@dataclass(frozen=True)
class MediaInfo:
    """What a file's header says; nothing is decoded for it, so a file with a lying header lies here.

    Attributes:
        container: FFmpeg's name of the format.
        has_video: a picture track that can be decoded is there; a cover picture does not count.
        has_audio: a sound track that can be decoded is there.
        video_codec: name, or None.
        audio_codec: name, or None.
        width: stored pixels, before rotation; 0 without pictures.
        height: likewise.
        fps: average frames per second; 0 when unknown.
        duration_s: seconds; None when unknown.
        audio_rate_hz: samples per second; 0 without sound.
        audio_channels: 0 without sound.
    """

    container: str
    has_video: bool
    has_audio: bool
    video_codec: str | None
    audio_codec: str | None
    width: int
    height: int
    fps: float
    duration_s: float | None
    audio_rate_hz: int
    audio_channels: int


def _refuse_other(url: str, *_: Any) -> Any:
    raise PermissionError(f"the file asks for {url[:200]!r}")


def reason_of(admitted: Admitted, error: BaseException, messages: list[tuple[int, str, str]]) -> MediaError:
    """Return the MediaError for an error of FFmpeg while `admitted` was read, with what FFmpeg said last."""
    said = "; ".join(dict.fromkeys(complaints(messages)[-3:])) or str(error)
    reason: MediaReason = "truncated" if admitted.cut else "corrupt"
    if isinstance(error, PermissionError) and "asks for" in str(error):
        reason = "unsafe_reference"
    elif "max_streams" in said or "Too many streams" in said:
        reason = "too_many_streams"
    elif "not on list" in said:
        reason, said = "not_media", "the content is of no allowed format"
    elif isinstance(error, MemoryError) or "max_pixels" in said or "Picture size" in said:
        reason = "too_large"
    elif isinstance(error, av.error.PatchWelcomeError | av.error.DecoderNotFoundError | NotImplementedError):
        reason = "unsupported"
    elif isinstance(error, av.error.EOFError):
        reason = "truncated"
    return admitted.error(reason, said[:300])


def open_container(admitted: Admitted, limits: Limits) -> InputContainer:
    """Open an admitted file with FFmpeg.

    FFmpeg gets the bytes alone, without a name, a list of allowed formats, no protocol, and a refusal for every other
    file or address that a format might ask for.

    Raises:
        MediaError: corrupt, truncated, unsupported, too_many_streams, too_large, not_media or unsafe_reference.
    """
    guard = {
        "format_whitelist": ",".join(ALLOWED_DEMUXERS),
        "protocol_whitelist": "none",
        "max_streams": str(limits.max_streams + 1),  # one more, to see that there are too many
    }
    with heard() as messages:
        try:
            container = av.open(
                admitted.cursor(),
                "r",
                format=admitted.demuxers[0] if len(admitted.demuxers) == 1 else None,
                options={"max_pixels": str(limits.max_pixels)},
                container_options=guard,
                metadata_errors="replace",
                buffer_size=_BUFFER_BYTES,
                io_open=_refuse_other,
            )
        except (FFmpegError, OSError, ValueError, MemoryError, NotImplementedError) as error:
            raise reason_of(admitted, error, messages) from None
    if (found := len(container.streams)) > limits.max_streams:
        container.close()
        raise admitted.error("too_many_streams", f"{found} streams, at most {limits.max_streams} (Limits.max_streams)")
    return container


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """Return the picture track to read: the largest that is no cover picture and has a decoder.

    Equal sizes: the one marked as default, then the first.
    """
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & cover]
    default = av.stream.Disposition.default
    return max(
        streams,
        key=lambda s: (s.codec_context.width * s.codec_context.height, bool(s.disposition & default), -s.index),
        default=None,
    )


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """Return the sound track to read: the first marked as default that has a decoder, else the first with a decoder."""
    streams = [s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate]
    default = av.stream.Disposition.default
    return max(streams, key=lambda s: (bool(s.disposition & default), -s.index), default=None)


def single_thread(stream: av.VideoStream | av.AudioStream) -> None:
    """Make the stream decode in the calling thread."""
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"


def describe(container: InputContainer) -> MediaInfo:
    """Return what the header of an open container says."""
    video, audio = video_stream(container), audio_stream(container)
    duration_s: float | None = None
    if container.duration is not None:
        duration_s = container.duration / 1e6
    elif video is not None and video.duration is not None and video.time_base is not None:
        duration_s = float(video.duration * video.time_base)
    return MediaInfo(
        container=container.format.name,
        has_video=video is not None,
        has_audio=audio is not None,
        video_codec=video.codec_context.name if video else None,
        audio_codec=audio.codec_context.name if audio else None,
        width=video.codec_context.width if video else 0,
        height=video.codec_context.height if video else 0,
        fps=float(video.average_rate or 0) if video else 0.0,
        duration_s=duration_s,
        audio_rate_hz=audio.codec_context.sample_rate if audio else 0,
        audio_channels=audio.codec_context.layout.nb_channels if audio else 0,
    )


def probe(source: MediaSource, limits: Limits = DEFAULT_LIMITS) -> MediaInfo:
    """Return what the header of a media file says, without decoding it.

    Args:
        source: a path, the bytes of a file, or an object with `read`.
        limits: see `Limits`.

    Raises:
        MediaError: the file cannot be opened, with the reason.
    """
    admitted = admit(source, limits)
    try:
        with open_container(admitted, limits) as container:
            return describe(container)
    finally:
        admitted.close()
