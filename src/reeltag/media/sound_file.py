"""`open_media`: a file of pictures, of pictures and sound, or of sound alone, opened once."""

from __future__ import annotations

from types import TracebackType

from torch import Tensor

from reeltag.errors import MediaError
from reeltag.media.audio import read_sound
from reeltag.media.container import MediaInfo, describe, open_container
from reeltag.media.gate import Admitted, MediaSource, admit
from reeltag.media.limits import DEFAULT_LIMITS, Limits
from reeltag.media.video import Video


class Sound:
    """An open file without pictures. Use it in a `with` statement, or call `close`.

    Attributes:
        info: what the header says.
        num_frames: 0.
        fps: 0.
        has_audio: True.
        duration_s: by the header; 0 when it does not say.
        damaged: False; packets that cannot be decoded leave silence.
    """

    num_frames = 0
    fps = 0.0
    has_audio = True
    damaged = False

    def __init__(self, admitted: Admitted, limits: Limits) -> None:
        self._admitted, self._limits = admitted, limits
        with open_container(admitted, limits) as container:
            self.info: MediaInfo = describe(container)
        if not self.info.has_audio:
            raise admitted.error("not_video", "neither pictures nor sound (a cover is none)")
        self.duration_s = self.info.duration_s or 0.0

    def audio(self, rate_hz: int = 16000) -> Tensor:
        """Return all the sound as one channel, float32 (N,) in [-1, 1], from its first sample on.

        Raises:
            ValueError: `rate_hz` is not above 0.
            MediaError: encrypted, timeout.
        """
        return read_sound(self._admitted, self._limits, rate_hz, None)

    def close(self) -> None:
        """Close the file."""
        self._admitted.close()

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def open_media(source: MediaSource, *, limits: Limits = DEFAULT_LIMITS) -> Video | Sound:
    """Open a file as a video, or as sound where it has no pictures.

    Args:
        source: a path, the bytes of a file, or an object with `read`.
        limits: see `Limits`.

    Raises:
        MediaError: the file cannot be read, or has neither; `reason` says why.
    """
    admitted = admit(source, limits)
    try:
        try:
            return Video(admitted, limits)
        except MediaError as error:
            if error.reason != "not_video":
                raise
            return Sound(admitted, limits)
    except BaseException:
        admitted.close()
        raise
